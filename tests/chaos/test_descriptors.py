"""A broker that runs out of file descriptors under load: nothing breaks, and once there are some again it goes on by itself.

    tests/tools pytest tests/chaos/test_descriptors.py
"""

import math
import os
import random
import resource
import time

import pytest

from chaos import ledger
from chaos.ledger import goes_on, wait_until
from harness import topics
from harness.broker import Alluvium
from harness.wire import Connection

SEED = int(os.environ.get("ALLUVIUM_SEED") or random.randrange(2**32))
# Small segments and journal files, so that at each moment a file has to be opened.
CONFIGS = {"segment.bytes": 1 << 20, "local.retention.bytes": 4 << 20}
OFTEN = ["data.journal_file=4MiB", "data.journal_max=16MiB", "data.checkpoint_interval=1s", "data.retention_interval=1s"]
SHORTAGE_S = 5


@pytest.fixture
def broker(tmp_path):
    started = Alluvium(tmp_path, *(part for one in OFTEN for part in ("--set", one)))
    yield started
    started.kill()


def errors_of_log_directories(connection):
    return [one["ErrorCode"] for one in connection.ask("DescribeLogDirs", 4, {"Topics": None})["Results"]]


def test_without_file_descriptors_nothing_breaks_and_with_some_it_goes_on(broker, monkeypatch):
    # Being told to try again is one of the answers.
    monkeypatch.setattr(ledger, "PATIENCE", math.inf)
    print(f"replay with ALLUVIUM_SEED={SEED}")
    topics.create(broker.bootstrap, "descriptors", ledger.PARTITIONS, CONFIGS)
    load = ledger.Load(broker.bootstrap, "descriptors", SEED)
    load.start()
    goes_on(broker, load.writers)
    # Clients that are connected can ask; new ones wait to be accepted.
    with Connection(broker.bootstrap, 30) as connection:
        assert errors_of_log_directories(connection) == [0]
        before = resource.prlimit(broker.pid, resource.RLIMIT_NOFILE)
        # No file can be opened, and of those that are closed none can be opened again.
        resource.prlimit(broker.pid, resource.RLIMIT_NOFILE, (0, before[1]))
        wait_until(lambda: "Too many open files" in broker.log.read_text(errors="replace"), "no file is opened", broker)
        until = time.monotonic() + SHORTAGE_S
        while time.monotonic() < until:
            assert broker.process.poll() is None, f"the broker ended:\n{broker.tail()}"
            assert errors_of_log_directories(connection) == [0], broker.tail()
            time.sleep(0.2)
        resource.prlimit(broker.pid, resource.RLIMIT_NOFILE, before)
        goes_on(broker, load.writers)
        assert errors_of_log_directories(connection) == [0], broker.tail()
    load.stop()
    load.settle()
    ledger.verify(broker.bootstrap, load.writers)
    ledger.verify_archive(broker, "descriptors")
    said = broker.log.read_text(errors="replace")
    assert "offline" not in said and "panicked" not in said, broker.tail()
    broker.stop()
    print(f"{load.acknowledged} records acknowledged")
