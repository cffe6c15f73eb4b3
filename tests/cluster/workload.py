"""Clients of one topic whose every step is written down: what was begun, what came of it, and when.

Producers and consumers are librdkafka's. A producer numbers its records in each partition by itself, so a record is known by
(producer, partition, number). What a client did not hear the end of may have happened, or not; only what no broker can have
taken counts as failed.

Client settings, beyond librdkafka's defaults, are CLIENT, PRODUCER and CONSUMER below: it dials again and asks again within
a fifth of a second, and gives up on an answer after five seconds.
"""

import collections
import functools
import json
import threading
import time
from dataclasses import asdict, dataclass

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from cluster import checker, replicas

CLIENT = {
    "reconnect.backoff.ms": 20,
    "reconnect.backoff.max.ms": 200,
    "retry.backoff.ms": 50,
    "retry.backoff.max.ms": 200,
    "topic.metadata.refresh.fast.interval.ms": 50,
    "socket.timeout.ms": 10_000,
    "socket.connection.setup.timeout.ms": 2000,
}
PRODUCER = CLIENT | {"acks": "all", "linger.ms": 2, "request.timeout.ms": 5000, "message.timeout.ms": 240_000}
# Without numbers of its own a batch that is sent again could pass the next one.
IDEMPOTENT = {True: {"enable.idempotence": True}, False: {"enable.idempotence": False, "max.in.flight": 1}}
CONSUMER = CLIENT | {"enable.auto.commit": False, "fetch.wait.max.ms": 100, "fetch.error.backoff.ms": 50}

# Refused before a broker took it.
NEVER_TAKEN = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError._UNKNOWN_PARTITION}
SETTLE_S = 120


@dataclass(slots=True)
class Event:
    """One step of one client. `kind` is invoke, ok, fail, unknown, or note; `what` is send, poll, commit,
    assign, whole or error."""

    at: float
    who: str
    what: str
    kind: str
    partition: int = -1
    offset: int = -1
    producer: str = ""
    number: int = -1
    text: str = ""


class History:
    """All events, in the order in which they were written down."""

    def __init__(self):
        self.events = []  # appending is atomic

    def add(self, who, what, kind, *place, **more):
        self.events.append(Event(time.monotonic(), who, what, kind, *place, **more))

    def of(self, what, *kinds):
        """Events of a sort, in order."""
        return [event for event in list(self.events) if event.what == what and (not kinds or event.kind in kinds)]

    def errors(self):
        """What clients complained of, and how often."""
        return collections.Counter(event.text for event in self.of("error"))

    def longest_gap(self, producer, partition, since, until):
        """The longest time within which nothing of a producer was acknowledged in a partition, from the last before `since`."""
        times = [event.at for event in self.of("send", "ok") if event.who == producer and event.partition == partition]
        before = [at for at in times if at <= since][-1:]
        within = [at for at in times if since < at <= until]
        known = before + within
        assert len(known) > 1, f"{producer} was not acknowledged in partition {partition}"
        return max(later - earlier for earlier, later in zip(known, known[1:]))

    def save(self, path):
        """Writes it down, an event a line."""
        with open(path, "w") as lines:
            lines.writelines(json.dumps(asdict(event)) + "\n" for event in list(self.events))


class Client:
    """A client in a thread of its own."""

    def __init__(self, history, name):
        self.history, self.name, self.failure = history, name, None
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._guarded, name=name, daemon=True)

    def start(self):
        self.thread.start()

    def stop(self):
        """Has it come to its end, and waits for that."""
        self.stopping.set()
        self.thread.join(SETTLE_S + 30)
        assert not self.thread.is_alive(), f"{self.name} hangs"
        if self.failure:
            raise self.failure

    def _guarded(self):
        try:
            self._run()
        except Exception as failure:  # told by who stops it
            self.failure = failure

    def _complains(self, error):
        """librdkafka tells so of what it gets over by itself, and of what it can't."""
        self.history.add(self.name, "error", "fatal" if error.fatal() else "note", text=error.name())


class Producer(Client):
    """Sends to all partitions in turn, so many records a second."""

    def __init__(self, history, bootstrap, topic, partitions, name, idempotent=True, per_second=200):
        super().__init__(history, name)
        self.topic, self.partitions, self.interval, self.is_idempotent = topic, partitions, 1 / per_second, idempotent
        settings = PRODUCER | IDEMPOTENT[idempotent] | {"bootstrap.servers": bootstrap, "client.id": name}
        self.producer = confluent_kafka.Producer(settings | {"error_cb": self._complains})

    def _run(self):
        due, turn = time.monotonic(), 0
        numbers = [0] * self.partitions
        while not self.stopping.is_set():
            due += self.interval
            partition, turn = turn % self.partitions, turn + 1
            number = numbers[partition]
            self.history.add(self.name, "send", "invoke", partition, producer=self.name, number=number)
            delivered = functools.partial(self._delivered, partition, number)
            try:
                value = replicas.value_of(self.name, number)
                self.producer.produce(self.topic, value, partition=partition, on_delivery=delivered)
                numbers[partition] += 1
            except BufferError:
                # The same number is sent again later, so it has to be known that it was not now.
                self.history.add(self.name, "send", "refused", partition, producer=self.name, number=number)
            self.producer.poll(0)
            while (left := due - time.monotonic()) > 0:
                self.producer.poll(left)
        if left := self.producer.flush(SETTLE_S):
            self.history.add(self.name, "error", "note", text=f"{left} records without an answer")

    def _delivered(self, partition, number, error, message):
        kind, text = "ok", ""
        if error:
            kind, text = "fail" if error.code() in NEVER_TAKEN else "unknown", error.name()
        # Of what it sent again and the broker had already, it does not know the offset.
        offset = message.offset() if not error and message.offset() is not None else -1
        self.history.add(self.name, "send", kind, partition, offset, self.name, number, text)


class Consumer(Client):
    """What readers of all partitions and members of a group have in common."""

    def __init__(self, history, bootstrap, topic, name, group, **more):
        super().__init__(history, name)
        self.topic, self.stretch, self.positions = topic, 0, {}
        settings = CONSUMER | {"bootstrap.servers": bootstrap, "client.id": name, "group.id": group} | more
        self.consumer = confluent_kafka.Consumer(settings | {"error_cb": self._complains})

    def _poll(self):
        message = self.consumer.poll(0.1)
        if message is None:
            return False
        if error := message.error():
            # Nothing that was to be read may be out of range: that is for the checker.
            kind = "lost" if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE) else "note"
            self.history.add(self.name, "error", kind, text=error.str())
            return False
        partition, offset = message.partition(), message.offset()
        # The stretch, in `text`, tells apart what was read after a partition was given anew.
        self.history.add(self.name, "poll", "ok", partition, offset, *replicas.named(message.value()), text=str(self.stretch))
        self.positions[partition] = offset + 1
        return True


class Reader(Consumer):
    """Reads all partitions from their beginning, without a group; ends once it has read up to the ends that `until` names."""

    def __init__(self, history, bootstrap, topic, partitions, name):
        super().__init__(history, bootstrap, topic, name, "unused", **{"auto.offset.reset": "error"})
        self.partitions, self.ends = partitions, None

    def until(self, ends):
        """Has it read up to these ends, by partition, and end. One that does not get there in time is found by the checker."""
        self.ends = ends
        self.stop()

    def _run(self):
        # It is to read all that there is.
        self.history.add(self.name, "whole", "ok")
        self.consumer.assign([TopicPartition(self.topic, partition, 0) for partition in range(self.partitions)])
        limit = None
        while True:
            self._poll()
            if self.stopping.is_set():
                limit = limit or time.monotonic() + SETTLE_S
                is_there = all(self.positions.get(partition, 0) >= end for partition, end in (self.ends or {}).items())
                if is_there or time.monotonic() > limit:
                    break
        self.consumer.close()


class Member(Consumer):
    """A member of a group, which commits what it has read every so often, and waits for that."""

    COMMIT_EVERY_S = 0.3

    def __init__(self, history, bootstrap, topic, group, name):
        sessions = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 500}
        super().__init__(history, bootstrap, topic, name, group, **{"auto.offset.reset": "earliest"} | sessions)

    def _run(self):
        self.consumer.subscribe([self.topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        due = time.monotonic() + self.COMMIT_EVERY_S
        while not self.stopping.is_set():
            self._poll()
            if time.monotonic() > due:
                self._commit()
                due = time.monotonic() + self.COMMIT_EVERY_S
        self._commit()
        self.consumer.close()

    def _assigned(self, _, places):
        self.stretch += 1
        self.positions = {}
        for place in places:
            self.history.add(self.name, "assign", "ok", place.partition, text=str(self.stretch))

    def _revoked(self, *_):
        self._commit()
        self.positions = {}

    def _lost(self, *_):
        self.positions = {}

    def _commit(self):
        """Commits where it stands. What it is not told the end of may have been done."""
        positions = dict(self.positions)
        if not positions:
            return
        for partition, offset in positions.items():
            self.history.add(self.name, "commit", "invoke", partition, offset)
        offsets = [TopicPartition(self.topic, partition, offset) for partition, offset in positions.items()]
        try:
            answered = self.consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as refused:
            text = refused.args[0].name()
            for partition, offset in positions.items():
                self.history.add(self.name, "commit", "unknown", partition, offset, text=text)
            return
        for place in answered:
            kind, text = ("unknown", place.error.name()) if place.error else ("ok", "")
            self.history.add(self.name, "commit", kind, place.partition, place.offset, text=text)


class Workload:
    """Producers, readers and a group on one topic of a cluster, and the check of all that they wrote down."""

    def __init__(self, cluster, topic="work", partitions=6, per_second=200, members=2, **configs):
        self.cluster, self.topic, self.partitions, self.group = cluster, topic, partitions, f"{topic}-group"
        cluster.create(topic, partitions, **{"min_insync_replicas": 2} | configs)
        self.history = history = History()
        place = (history, cluster.bootstrap, topic)
        self.idempotent = Producer(*place, partitions, "idempotent", True, per_second)
        self.plain = Producer(*place, partitions, "plain", False, per_second)
        self.reader = Reader(*place, partitions, "reader")
        self.members = [Member(*place, self.group, f"member-{index}") for index in range(members)]

    @property
    def producers(self):
        return [self.idempotent, self.plain]

    def __enter__(self):
        for client in (*self.producers, self.reader, *self.members):
            client.start()
        self.until_goes_on()
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            self.history.save(self.cluster.directory / f"{self.topic}-history.jsonl")
            for client in (*self.producers, self.reader, *self.members):
                client.stopping.set()

    def until_goes_on(self, within_s=90):
        """Waits until both producers are acknowledged more in every partition; returns when that was."""
        began = time.monotonic()
        wanted = {(producer.name, partition) for producer in self.producers for partition in range(self.partitions)}
        seen = len(self.history.events)
        while wanted:
            for producer in self.producers:
                assert producer.thread.is_alive(), f"{producer.name} ended: {producer.failure}"
            events = self.history.events[seen:]
            seen += len(events)
            done = (event for event in events if event.what == "send" and event.kind == "ok" and event.at > began)
            wanted -= {(event.who, event.partition) for event in done}
            is_late = time.monotonic() > began + within_s
            assert not is_late, f"not acknowledged for {within_s} s: {sorted(wanted)}; {self.history.errors()}"
            time.sleep(0.02)
        return time.monotonic()

    def settle(self):
        """Lets all come to their end, once all brokers are up, and checks everything that was seen and is there."""
        for producer in self.producers:
            producer.stop()
        self.cluster.until_well()
        self.cluster.wait_isr(self.topic, 3)
        copies = replicas.agreed(self.cluster, self.topic)
        logs = {partition: replicas.records(copy) for partition, copy in copies.items()}
        self.reader.until({partition: log[-1][0] + 1 for partition, log in logs.items() if log})
        for member in self.members:
            member.stop()
        committed = self.committed() if self.members else None
        found = checker.check(self.history, logs, {"idempotent"}, committed)
        sent = collections.Counter(event.kind for event in self.history.of("send"))
        polled, commits = len(self.history.of("poll")), len(self.history.of("commit", "ok"))
        print(f"{self.topic}: {dict(sent)}, {polled} polled, {commits} commits")
        print(f"clients complained: {dict(self.history.errors())}")
        if found:
            path = self.cluster.directory / f"{self.topic}-history.jsonl"
            self.history.save(path)
            raise AssertionError("\n".join([*map(str, found[:20]), f"{len(found)} violations; history in {path}"]))

    def no_send_failed(self):
        """Checks that each record was acknowledged that was sent."""
        failed = self.history.of("send", "fail", "unknown")
        assert not failed, failed[:3]

    def committed(self):
        """The committed offsets of the group, by partition."""
        settings = CONSUMER | {"bootstrap.servers": self.cluster.bootstrap, "group.id": self.group}
        consumer = confluent_kafka.Consumer(settings)
        try:
            places = [TopicPartition(self.topic, partition) for partition in range(self.partitions)]
            found = consumer.committed(places, timeout=60)
            assert not any(place.error for place in found), found
            return {place.partition: max(place.offset, 0) for place in found}
        finally:
            consumer.close()
