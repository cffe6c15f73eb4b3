"""A producer at a fixed rate and a consumer at the tail, both librdkafka, whose latencies are kept for each stretch of time."""

import contextlib
import math
import struct
import threading
import time

import confluent_kafka

STAMP = struct.Struct(">qd")  # a record's number, and when it was made
PADDING = b"\x07" * 500


class SteadyLoad:
    """Runs until stopped. `sent` counts records, `acknowledged` those that the broker took for good."""

    def __init__(self, bootstrap, topic, per_second=200):
        self.bootstrap, self.topic, self.interval = bootstrap, topic, 1 / per_second
        self.sent = self.acknowledged = self.seen = 0
        self.failures = []
        self.produced, self.consumed = [], []  # when each record was, and after how many seconds
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=run, daemon=True) for run in (self._consume, self._produce)]
        for thread in self.threads:
            thread.start()

    def stop(self):
        """Stops, and waits until every record is acknowledged and seen at the tail."""
        self.stopping.set()
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive(), "a client hangs"
        assert not self.failures, self.failures[:3]

    @contextlib.contextmanager
    def measured(self):
        """Gives the latencies of each second of a block, in milliseconds: of what was acknowledged and what was seen in it."""
        begun, slices = time.monotonic(), {}
        first = {"produce": len(self.produced), "tail": len(self.consumed)}
        yield slices
        whole = max(1, int(time.monotonic() - begun))
        for who, all_ in ("produce", self.produced), ("tail", self.consumed):
            slices[who] = [[] for _ in range(whole)]
            for when, latency_s in all_[first[who] :]:
                slices[who][min(int(when - begun), whole - 1)].append(1000 * latency_s)

    def _produce(self):
        settings = {"bootstrap.servers": self.bootstrap, "enable.idempotence": True, "linger.ms": 0, "acks": "all"}
        producer = confluent_kafka.Producer(settings)
        due = time.monotonic()
        while not self.stopping.is_set():
            due += self.interval
            stamp = STAMP.pack(self.sent, time.monotonic())
            producer.produce(self.topic, stamp + PADDING, partition=0, on_delivery=self._delivered)
            self.sent += 1
            producer.poll(0)
            # A poll ends with the first thing that it has to tell, and the next record may not come before its time.
            while (left := due - time.monotonic()) > 0:
                producer.poll(left)
        if left := producer.flush(30):
            self.failures.append(f"{left} records were not acknowledged")

    def _delivered(self, error, message):
        if error:
            self.failures.append(str(error))
        else:
            self.acknowledged += 1
            self.produced.append((time.monotonic(), message.latency()))

    def _consume(self):
        settings = {"bootstrap.servers": self.bootstrap, "group.id": "unused", "enable.auto.commit": False}
        consumer = confluent_kafka.Consumer(settings | {"fetch.wait.max.ms": 500})
        consumer.assign([confluent_kafka.TopicPartition(self.topic, 0, 0)])
        idle_since = None
        while not (self.stopping.is_set() and self.seen >= self.sent):
            message = consumer.poll(0.1)
            if message is None:
                # Waits for what is under way, but not for ever for what was lost.
                idle_since = idle_since or time.monotonic()
                if self.stopping.is_set() and time.monotonic() - idle_since > 30:
                    self.failures.append(f"{self.seen} of {self.sent} records were seen at the tail")
                    break
                continue
            idle_since = None
            if message.error():
                self.failures.append(str(message.error()))
                continue
            number, made = STAMP.unpack(message.value()[: STAMP.size])
            if number != self.seen:
                self.failures.append(f"record {number} at the tail where {self.seen} should be")
            self.seen = number + 1
            self.consumed.append((time.monotonic(), time.monotonic() - made))
        consumer.close()


def numbers(records):
    """The numbers of the load's records."""
    return [STAMP.unpack(record.value[: STAMP.size])[0] for record in records]


def percentile(latencies, share):
    """Of latencies, the one that this share of them does not exceed; where nothing was done it took for ever."""
    return sorted(latencies)[min(len(latencies) - 1, int(len(latencies) * share))] if latencies else math.inf
