"""Stores of each kind, brokers that archive into them, and what an archive says of itself without a broker."""

import json
from types import SimpleNamespace

import pytest

from compat.clients import LibRdKafka
from harness import s3
from harness.broker import Alluvium, run


@pytest.fixture(scope="session")
def seaweedfs():
    """A real S3 server, for the whole session."""
    started = s3.SeaweedFs()
    yield started
    started.stop()


@pytest.fixture(params=["file", "s3"])
def store(request, tmp_path, fresh_name):
    """An empty object store for one case; each case runs on every kind."""
    if request.param == "file":
        return s3.FileStore(tmp_path / "store")
    return s3.S3Store(request.getfixturevalue("seaweedfs").port, fresh_name("case"))


@pytest.fixture(scope="session", params=["file", "s3"])
def home(request, tmp_path_factory):
    """A store with a broker that archives into it, for all cases that leave it as it was; and a client of that broker."""
    directory = tmp_path_factory.mktemp(f"home-{request.param}")
    if request.param == "file":
        store = s3.FileStore(directory / "store")
    else:
        store = s3.S3Store(request.getfixturevalue("seaweedfs").port, "home")
    broker = Alluvium(directory / "broker", *flags(store), environment=store.environment)
    yield SimpleNamespace(store=store, broker=broker, client=LibRdKafka(broker.bootstrap))
    broker.stop()


@pytest.fixture
def serve(tmp_path):
    """Starts brokers that archive into a store, and ends them with the case."""
    started = []

    def start(store, name="broker", *settings):
        started.append(Alluvium(tmp_path / name, *flags(store, *settings), environment=store.environment))
        return started[-1]

    yield start
    for broker in started:
        broker.stop()


def flags(store, *settings):
    """The arguments of a broker that archives into a store, and that looks often at what it has to do."""
    often = ["data.checkpoint_interval=500ms", "data.retention_interval=500ms", "archive.deletion_grace=1ms"]
    return ["--object-store", store.url, *(part for one in (*often, *settings) for part in ("--set", one))]


def archive(store, command, topic, *arguments, status=0):
    """Runs `alluvium archive` on the store alone; the objects that it printed, or its error."""
    arguments = ["archive", command, topic, "--object-store", store.url, "--json", *arguments]
    printed = run(*arguments, environment=store.environment, status=status)
    return printed if status else [json.loads(line) for line in printed.split("\n") if line]


def parquet_files(store, topic):
    """The Parquet objects that the archive of a topic lists."""
    return [key for one in archive(store, "describe", topic) for key in one["objects"] if key.endswith(".parquet")]


def flush(broker, topic):
    """Has everything of a topic archived."""
    run("archive", "flush", topic, "--wait", "--bootstrap", broker.bootstrap)
