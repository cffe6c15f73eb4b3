"""Options and fixtures of all suites: which broker is tested, and where the truth is."""

import itertools
import os
import shutil
import time

import pytest

from harness import broker as brokers
from harness.patience import wait_until

counter = itertools.count()


def pytest_addoption(parser):
    parser.addoption("--broker", choices=["alluvium", "kafka"], default="alluvium", help="start a fresh one of these")
    parser.addoption("--bootstrap", help="test the broker at this address instead")
    parser.addoption("--full", action="store_true", help="every combination and all the data, not CI's selection")


@pytest.fixture(scope="session")
def broker(request):
    """The broker under test."""
    if address := request.config.getoption("--bootstrap"):
        yield brokers.Broker(address)
        return
    started = brokers.launch(request.config.getoption("--broker"))
    yield started
    started.stop()


@pytest.fixture(scope="session")
def full(request):
    """Whether to run everything."""
    return request.config.getoption("--full")


@pytest.fixture
def fresh_name():
    """Makes names for topics and groups that no other case uses."""
    return lambda stem: f"{stem}-{os.getpid()}-{int(time.time())}-{next(counter)}"


def need(tool):
    """A tool that tests/tools installs: missing in CI is a failure, elsewhere a skip."""
    path = shutil.which(tool)
    if path is None and os.environ.get("CI"):
        pytest.fail(f"{tool} is missing; tests/tools install should have brought it")
    if path is None:
        pytest.skip(f"{tool} is missing; run tests/tools install")
    return path


@pytest.fixture
def eventually():
    """Waits until something is true: a change is acknowledged before every part of a broker has heard of it."""

    return wait_until
