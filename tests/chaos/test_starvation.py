"""A broker that gets a processor a fifth of the time, and has more to compress than fits in: it is slower, and that is all.

    tests/tools pytest tests/chaos/test_starvation.py
"""

import contextlib
import os
import random
import threading
import time

from chaos import ledger
from chaos.ledger import goes_on
from harness import batch, commits, topics
from harness.broker import Alluvium
from harness.cadence import interrupted
from harness.wire import Closed, Connection

SEED = int(os.environ.get("ALLUVIUM_SEED") or random.randrange(2**32))
STARVED_S = 15
# The shortest that a broker takes; clients send a heartbeat three times as often at least.
SESSION_S = 6
GZIP, COMPRESSORS, BATCH_BYTES = 1, 4, 900_000


class Member:
    """The only member of a group."""

    def __init__(self, bootstrap, group):
        commits.find_coordinator(bootstrap, group)
        self.connection = Connection(bootstrap, 60)
        protocols = [{"Name": "range", "Metadata": b""}]
        join = {"GroupId": group, "SessionTimeoutMs": SESSION_S * 1000, "RebalanceTimeoutMs": 60_000}
        join |= {"ProtocolType": "consumer", "Protocols": protocols}
        name = self.connection.ask("JoinGroup", 4, join | {"MemberId": ""})["MemberId"]
        joined = self.connection.ask("JoinGroup", 4, join | {"MemberId": name})
        assert joined["ErrorCode"] == 0, joined
        self.place = {"GroupId": group, "GenerationId": joined["GenerationId"], "MemberId": name}
        assignments = [{"MemberId": name, "Assignment": b""}]
        synced = self.connection.ask("SyncGroup", 3, self.place | {"Assignments": assignments})
        assert synced["ErrorCode"] == 0, synced

    def heartbeat(self):
        answer = self.connection.ask("Heartbeat", 3, self.place)
        assert answer["ErrorCode"] == 0, f"it lost its place: {answer}"


@contextlib.contextmanager
def compressing(bootstrap, topic):
    """Producers of large batches that the broker compresses, one after another, for the length of a block."""
    data = batch.build([batch.Record(random.Random(SEED).randbytes(BATCH_BYTES // 2).hex().encode())])
    ending = threading.Event()

    def produce(index):
        with contextlib.suppress(Closed, OSError), Connection(bootstrap, 60) as connection:
            while not ending.is_set():
                entry = {"Name": topic, "PartitionData": [{"Index": index, "Records": data}]}
                connection.ask("Produce", 9, {"Acks": -1, "TimeoutMs": 60_000, "TopicData": [entry]})

    threads = [threading.Thread(target=produce, args=(index,), daemon=True) for index in range(COMPRESSORS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ending.set()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), "a producer hangs"


def test_members_keep_their_places_and_producers_go_on_where_compression_wants_more_than_there_is(tmp_path):
    print(f"replay with ALLUVIUM_SEED={SEED}")
    broker = Alluvium(tmp_path / "broker", "--set", "groups.initial_rebalance_delay=0ms")
    try:
        topics.create(broker.bootstrap, "starved", ledger.PARTITIONS)
        topics.create(broker.bootstrap, "compressed", COMPRESSORS, {"compression.type": "gzip"})
        load = ledger.Load(broker.bootstrap, "starved", SEED)
        load.start()
        goes_on(broker, load.writers)
        member = Member(broker.bootstrap, "group")
        with compressing(broker.bootstrap, "compressed"):
            with interrupted(broker.pid, running_s=0.05, standing_s=0.2):
                before, until = [writer.acknowledged for writer in load.writers], time.monotonic() + STARVED_S
                while time.monotonic() < until:
                    member.heartbeat()
                    time.sleep(SESSION_S / 6)
                assert all(writer.acknowledged > was for writer, was in zip(load.writers, before)), "producers do not go on"
            goes_on(broker, load.writers)
            member.heartbeat()
        load.stop()
        load.settle()
        ledger.verify(broker.bootstrap, load.writers)
        for index in range(COMPRESSORS):
            assert next(topics.batches(broker.bootstrap, "compressed", index)).attributes & 7 == GZIP
        broker.stop()
    finally:
        broker.kill()
