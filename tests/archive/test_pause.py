"""A broker that stands still under load for longer than its clients and its store wait, and then goes on.

    tests/tools pytest tests/archive/test_pause.py
"""

import os
import random
import time

import pytest

from archive.conftest import archive, flush
from chaos import ledger
from harness import topics
from harness.broker import run

SEED = int(os.environ.get("ALLUVIUM_SEED") or random.randrange(2**32))
# The load's clients wait for ten seconds.
PAUSE_S, STORE_TIMEOUT = 15, "2s"
# Small segments, so that at each moment some are under way to the bucket.
CONFIGS = {"segment.bytes": 1 << 20, "local.retention.bytes": 2 << 20}
REFUSED = 1


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_a_broker_that_stood_still_loses_nothing_and_nobody_takes_its_directory_meanwhile(serve, store):
    print(f"replay with ALLUVIUM_SEED={SEED}")
    broker = serve(store, "broker", f"archive.request_timeout={STORE_TIMEOUT}")
    topics.create(broker.bootstrap, "paused", ledger.PARTITIONS, CONFIGS)
    load = ledger.Load(broker.bootstrap, "paused", SEED)
    load.start()
    ledger.goes_on(broker, load.writers)
    connected = broker.metrics()["alluvium_server_accepted_connections_total"]
    with broker.paused():
        until = time.monotonic() + PAUSE_S
        listen = [part for kind in ("kafka", "http") for part in (f"--{kind}-listen", "127.0.0.1:0")]
        second = ["serve", "--data-dir", broker.directory / "data", "--object-store", store.url, *listen]
        error = run(*second, environment=store.environment, status=REFUSED, within_s=60)
        assert "data directory is in use by another process" in error, error
        time.sleep(max(0, until - time.monotonic()))
    ledger.goes_on(broker, load.writers)
    again = broker.metrics()["alluvium_server_accepted_connections_total"]
    assert again >= connected + ledger.PARTITIONS, "the clients did not give up"
    load.stop()
    load.settle()
    ledger.verify(broker.bootstrap, load.writers)
    flush(broker, "paused")
    assert all(part["ok"] for part in archive(store, "verify", "paused"))
    print(f"{load.acknowledged} records acknowledged")
