"""A load of idempotent producers whose every acknowledgement is written down, and the check that nothing was lost.

Raw requests rather than a client library, so that what was acknowledged is known exactly and a seed gives the same load.
An answer that never came leaves the batch open: it may be in the log once, or not at all, and is sent again.
"""

import random
import struct
import threading
import time

from harness import batch, topics
from harness.broker import run
from harness.topics import NOT_YET
from harness.wire import Closed, Connection

PARTITIONS = 6
IN_FLIGHT = 4
PATIENCE = 1000  # refusals in a row after which a batch counts as lost


class Writer:
    """One producer on one partition. A record's value is its number, so order and loss are seen at once."""

    def __init__(self, topic, partition, seed, acks=-1):
        self.topic, self.partition, self.acks = topic, partition, acks
        self.random = random.Random(f"{seed} {partition}")
        self.identity = None
        self.next_number = self.acknowledged = 0
        self.offsets = {}  # first number of an acknowledged batch -> base offset
        self.open = []  # batches sent and not answered, oldest first: (first number, count, bytes)
        self.failure, self.refusals, self.refused_with = None, 0, set()

    def run(self, bootstrap, stop):
        """Produces until told to stop; connections that break are made anew."""
        while not stop.is_set():
            try:
                with Connection(bootstrap, 10) as connection:
                    self._identify(connection)
                    self._produce(connection, stop)
            except (Closed, OSError):
                time.sleep(0.02)
            except AssertionError as failure:
                self.failure = failure
                return

    def settle(self, bootstrap):
        """Gets every open batch answered, after the last crash."""
        stop = threading.Event()
        with Connection(bootstrap, 30) as connection:
            self._identify(connection)
            stop.set()
            self._produce(connection, stop)

    def _identify(self, connection):
        while self.identity is None:
            answer = connection.ask("InitProducerId", 4, {"TransactionalId": None, "TransactionTimeoutMs": 1000})
            if answer["ErrorCode"] == 0:
                self.identity = answer["ProducerId"], answer["ProducerEpoch"]
            else:
                assert answer["ErrorCode"] in NOT_YET, answer
                time.sleep(0.02)

    def _produce(self, connection, stop):
        unsent = list(self.open)
        sent = 0
        while True:
            while sent < IN_FLIGHT and (unsent or not stop.is_set()):
                entry = unsent.pop(0) if unsent else self._next_batch()
                self._send(connection, entry)
                sent += 1
            if sent == 0:
                return
            again = self._answer(connection.receive())
            sent -= 1
            if again:
                # What follows a refused batch is refused too: collect those answers, then begin again with the oldest.
                while sent:
                    self._answer(connection.receive())
                    sent -= 1
                unsent = list(self.open)
                time.sleep(0.02)

    def _next_batch(self):
        count = self.random.randint(1, 20)
        records = [
            batch.Record(struct.pack(">q", number) + self.random.randbytes(self.random.randint(0, 400)))
            for number in range(self.next_number, self.next_number + count)
        ]
        codec = self.random.choice(["none", "none", "lz4", "zstd"])
        data = batch.build(records, codec, (*self.identity, self.next_number & 0x7FFFFFFF))
        entry = self.next_number, count, data
        self.next_number += count
        self.open.append(entry)
        return entry

    def _send(self, connection, entry):
        data = [{"Index": self.partition, "Records": entry[2]}]
        topics = [{"Name": self.topic, "PartitionData": data}]
        connection.send("Produce", 9, {"Acks": self.acks, "TimeoutMs": 10_000, "TopicData": topics})

    def _answer(self, answer):
        """Books an answer to the oldest open batch; true if it has to be sent again."""
        found = answer["Responses"][0]["PartitionResponses"][0]
        code = found["ErrorCode"]
        if code in (0, 46):  # written, or written before the connection broke
            first, count, _ = self.open.pop(0)
            self.offsets[first] = found["BaseOffset"]
            self.acknowledged = first + count
            self.refusals = 0
            return False
        self.refusals += 1
        self.refused_with.add(code)
        assert code in NOT_YET or code == 45, f"partition {self.partition}: error {code} for {self.open[0][:2]}"
        assert self.refusals < PATIENCE, f"partition {self.partition}: {self.open[0][:2]} refused for ever, error {code}"
        return True


def verify(bootstrap, writers):
    """Reads everything back: each acknowledged record exactly once, in order, at the offset that was promised."""
    for writer in writers:
        if writer.failure:
            raise writer.failure
        found = topics.records(bootstrap, writer.topic, writer.partition)
        numbers = [struct.unpack(">q", record.value[:8])[0] for record in found]
        assert numbers == list(range(len(numbers))), where_broken(writer, numbers)
        assert len(numbers) >= writer.acknowledged, f"{writer.acknowledged} acknowledged, {len(numbers)} there"
        for first, offset in writer.offsets.items():
            assert offset in (first, -1), f"batch {first} was acknowledged at offset {offset}"


def verify_archive(broker, topic, store=None):
    """Has everything archived, into a directory or the default one, and that checked from the first object to the last."""
    run("archive", "flush", topic, "--wait", "--bootstrap", broker.bootstrap)
    run("archive", "verify", topic, "--object-store", f"file://{store or broker.directory / 'data/object-store'}")


def wait_until(reached, failure, broker, within_s=60):
    """Waits until something is true, as long as the broker lives."""
    end = time.monotonic() + within_s
    while not reached():
        assert broker.process.poll() is None, f"the broker ended:\n{broker.tail()}"
        assert time.monotonic() < end, f"{failure}:\n{broker.tail()}"
        time.sleep(0.1)


def goes_on(broker, writers):
    """Waits until every one of these producers is acknowledged more."""
    before = [writer.acknowledged for writer in writers]

    def increased():
        assert not any(writer.failure for writer in writers), [writer.failure for writer in writers]
        return all(writer.acknowledged > was + 200 for writer, was in zip(writers, before))

    wait_until(increased, "producers do not go on", broker)


def where_broken(writer, numbers):
    at = next(index for index, number in enumerate(numbers) if number != index)
    return f"partition {writer.partition}: offset {at} holds record {numbers[at]}; after {numbers[max(0, at - 3):at]}"


class Load:
    """Writers on all partitions, each in its thread."""

    def __init__(self, bootstrap, topic, seed, partitions=PARTITIONS, acks=-1):
        self.bootstrap = bootstrap
        self.writers = [Writer(topic, partition, seed, acks) for partition in range(partitions)]

    def start(self):
        self.stop_event = threading.Event()
        arguments = (self.bootstrap, self.stop_event)
        self.threads = [threading.Thread(target=writer.run, args=arguments, daemon=True) for writer in self.writers]
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.stop_event.set()
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive(), "a writer hangs"

    def settle(self):
        for writer in self.writers:
            writer.settle(self.bootstrap)

    @property
    def acknowledged(self):
        return sum(writer.acknowledged for writer in self.writers)
