"""Scenarios about records: produce, fetch, offsets, producers. Each runs in every version of its API."""

import time
import uuid

from harness.batch import Record, build

from wire.compare import Session
from wire.registry import scenario


def produce_body(topic, version, records, acks=-1, partition=0, transactional_id=None):
    name, topic_id = topic
    named = {"TopicId": topic_id} if version >= 13 else {"Name": name}
    data = [{"Index": partition, "Records": records}]
    body = {"Acks": acks, "TimeoutMs": 5000, "TopicData": [named | {"PartitionData": data}]}
    return body | ({"TransactionalId": transactional_id} if version >= 3 else {})


def fetch_body(topic, version, offset, wait_ms=0, max_bytes=1 << 20, **options):
    name, topic_id = topic
    named = {"TopicId": topic_id} if version >= 13 else {"Topic": name}
    partition = {"Partition": options.get("partition", 0), "FetchOffset": offset}
    partition["PartitionMaxBytes"] = options.get("partition_max_bytes", 1 << 20)
    if version >= 9:
        partition["CurrentLeaderEpoch"] = options.get("epoch", -1)
    if version >= 12:
        partition["LastFetchedEpoch"] = options.get("last_epoch", -1)
    body = {"MaxWaitMs": wait_ms, "MinBytes": options.get("min_bytes", 0), "MaxBytes": max_bytes}
    body["IsolationLevel"] = options.get("isolation", 0)
    if version >= 7:
        body |= {"SessionId": options.get("session", 0), "SessionEpoch": options.get("session_epoch", -1)}
    return body | {"Topics": [named | {"Partitions": [partition]}]}


def one(value=b"value", timestamp=1000):
    return [Record(value, b"key", timestamp=timestamp)]


@scenario("Produce")
def batches_in_every_codec(session, version):
    topic = session.topic()
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        session.ask("Produce", version, produce_body(topic, version, build(one(), codec)))
    session.ask("Fetch", 12, fetch_body(topic, 12, 0))


@scenario("Produce")
def produce_to_what_is_not_there(session, version):
    topic = session.topic()
    unknown = ("no-such-topic" + session.label, uuid.UUID(int=77))
    session.ask("Produce", version, produce_body(unknown, version, build(one())))
    session.ask("Produce", version, produce_body(topic, version, build(one()), partition=9))
    session.ask("Produce", version, produce_body(topic, version, build(one()), partition=-1))


@scenario("Produce")
def acknowledgements(session, version):
    topic = session.topic()
    for acks in (1, -1, 2, -2):
        session.ask("Produce", version, produce_body(topic, version, build(one()), acks=acks))
    unknown = ("no-such-topic" + session.label, uuid.UUID(int=77))
    session.ask("Produce", version, produce_body(unknown, version, build(one()), acks=2))
    some = produce_body(topic, version, build(one()), acks=2)
    some["TopicData"][0]["PartitionData"] += [{"Index": index, "Records": build(one())} for index in (9, -1)]
    session.ask("Produce", version, some)


@scenario("Produce")
def more_replicas_wanted_in_sync_than_there_are(session, version):
    topic = session.topic(min_insync_replicas="2")
    for acks in (1, -1):
        session.ask("Produce", version, produce_body(topic, version, build(one()), acks=acks))


@scenario("Produce")
def damaged_batches(session, version):
    topic = session.topic()
    good = build(one())
    damaged = [
        build(one(), crc=1),
        build(one(), magic=1),
        build(one(), magic=3),
        build(one(), count=2),
        build(one(), count=0),
        build(one(), count=-1),
        build(one(), last_offset_delta=5),
        build(one(), attributes=7),
        build(one(), attributes=0x20),
        build(one(), attributes=0x10),
        build(one(), length=10),
        build(one(), length=10_000),
        build(one(), "gzip", payload=b"not gzip at all"),
        good[:30],
        good[:61],
        b"",  # null in its place is never answered by Apache Kafka
        good + good,
        good + b"\0" * 5,
        build(one(), base_offset=500),
        build(one(), max_timestamp=5),
    ]
    for data in damaged:
        session.ask("Produce", version, produce_body(topic, version, data))
    session.ask("Fetch", 12, fetch_body(topic, 12, 0))


@scenario("Produce")
def records_that_break_the_rules_of_their_topic(session, version):
    topic = session.topic(max_message_bytes="1000", message_timestamp_after_max_ms="1000")
    session.ask("Produce", version, produce_body(topic, version, build(one(b"x" * 2000))))
    session.ask("Produce", version, produce_body(topic, version, build(one(timestamp=4_000_000_000_000))))
    session.ask("Produce", version, produce_body(topic, version, build(one(timestamp=-1))))
    compacted = session.topic("append-time", message_timestamp_type="LogAppendTime")
    session.ask("Produce", version, produce_body(compacted, version, build(one())))
    session.ask("Fetch", 12, fetch_body(compacted, 12, 0))


@scenario("Produce")
def sequences_of_an_idempotent_producer(session, version):
    topic = session.topic()
    producer = session.producer()

    def send(epoch, sequence, count=1, who=producer):
        data = build([Record(b"%d" % n, timestamp=1000) for n in range(count)], producer=(who, epoch, sequence))
        session.ask("Produce", version, produce_body(topic, version, data))

    for sequence in range(7):
        send(0, sequence)
    send(0, 6)  # the last, again
    send(0, 2)  # the oldest of five, again
    send(0, 1)  # too old to be known
    send(0, 9)  # a gap
    send(1, 1)  # a new epoch that does not begin at 0
    send(1, 0, count=3)
    send(0, 7)  # the old epoch
    send(1, 1, count=2)  # inside a batch that is known
    send(0, 5, who=producer + 1_000_000)  # nobody was given this id
    send(0, -1)
    session.ask("Fetch", 12, fetch_body(topic, 12, 0))


@scenario("Produce")
def transactional_batches_without_a_transaction(session, version):
    topic = session.topic()
    data = build(one(), producer=(5, 0, 0), attributes=0x10)
    session.ask("Produce", version, produce_body(topic, version, data))


@scenario("Fetch")
def fetch_from_every_kind_of_offset(session, version):
    topic = session.topic()
    session.fill(topic[0], 10)
    for offset in (0, 5, 10, 11, -1, 2**40):
        session.ask("Fetch", version, fetch_body(topic, version, offset))
    session.ask("Fetch", version, fetch_body(topic, version, 0, isolation=1))


@scenario("Fetch")
def fetch_in_every_codec(session, version):
    topic = session.topic()
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        session.fill(topic[0], 2, codec=codec)
    session.ask("Fetch", version, fetch_body(topic, version, 0))
    topic = session.topic("zstd", compression_type="zstd")
    session.fill(topic[0], 2)
    session.ask("Fetch", version, fetch_body(topic, version, 0))


@scenario("Fetch")
def fetch_starts_inside_a_batch(session, version):
    topic = session.topic()
    session.fill(topic[0], 10, per_batch=5, codec="lz4")
    for offset in (2, 5, 7):
        session.ask("Fetch", version, fetch_body(topic, version, offset))


@scenario("Fetch")
def fetch_is_bounded_but_gives_one_batch(session, version):
    topic = session.topic()
    session.fill(topic[0], 10)
    for size in (0, 1, 100, 200, 1 << 20):
        session.ask("Fetch", version, fetch_body(topic, version, 0, partition_max_bytes=size))
        session.ask("Fetch", version, fetch_body(topic, version, 0, max_bytes=size))


@scenario("Fetch", since=17)
def fetch_waits_for_as_much_as_it_asks_for_and_no_longer_than_it_says(session, version):
    topic = session.topic()
    session.fill(topic[0], 3)
    for offset in (0, 3):
        began = time.monotonic()
        session.ask("Fetch", version, fetch_body(topic, version, offset, wait_ms=300, min_bytes=1 << 20))
        # Timers count whole milliseconds, and may end within the last of them.
        session.transcript.append((f"Fetch v{version} of {offset}", {"Waited": time.monotonic() - began > 0.29}))
    # Who waited for the rest of this time would count as silent.
    patient = {"wait_ms": 60_000, "min_bytes": 1}
    session.ask("Fetch", version, fetch_body(topic, version, 0, **patient))
    session.connection.send("Fetch", version, fetch_body(topic, version, 3, **patient))
    producer = Session(session.bootstrap, session.label)
    producer.fill(topic[0], 1)
    producer.connection.close()
    session.transcript.append((f"Fetch v{version} of what comes", session._exchange(lambda connection: connection.receive())))


@scenario("Fetch")
def fetch_what_is_not_there(session, version):
    topic = session.topic()
    unknown = ("no-such-topic" + session.label, uuid.UUID(int=77))
    session.ask("Fetch", version, fetch_body(unknown, version, 0))
    session.ask("Fetch", version, fetch_body(topic, version, 0, partition=9))
    for epoch in (0, 1, 7, -2):
        session.ask("Fetch", version, fetch_body(topic, version, 0, epoch=epoch))


@scenario("Fetch", since=12)
def fetch_with_the_epoch_of_the_last_record(session, version):
    topic = session.topic()
    session.fill(topic[0], 3)
    for epoch, offset in [(0, 0), (0, 3), (0, 4), (0, -1), (1, 0), (1, 4), (-1, 4), (-2, 0)]:
        session.ask("Fetch", version, fetch_body(topic, version, offset, last_epoch=epoch))
    # Not waited with, and told for as long as it is so.
    session.ask("Fetch", version, fetch_body(topic, version, 4, wait_ms=20_000, min_bytes=1, isolation=1, last_epoch=0))
    opened = session.ask("Fetch", version, fetch_body(topic, version, 4, session_epoch=0, last_epoch=0))
    empty = {"MaxWaitMs": 0, "MinBytes": 0, "MaxBytes": 1 << 20, "SessionId": opened.get("SessionId", 0), "Topics": []}
    session.ask("Fetch", version, empty | {"SessionEpoch": 1})
    session.fill(topic[0], 1)
    session.ask("Fetch", version, empty | {"SessionEpoch": 2})


@scenario("Fetch", since=7)
def fetch_sessions(session, version):
    topic = session.topic(partitions=2)
    session.fill(topic[0], 3)
    opened = session.ask("Fetch", version, fetch_body(topic, version, 0, session_epoch=0))
    number = opened.get("SessionId", 0)
    empty = {"MaxWaitMs": 0, "MinBytes": 0, "MaxBytes": 1 << 20, "SessionId": number, "Topics": []}
    session.ask("Fetch", version, empty | {"SessionEpoch": 1})
    session.fill(topic[0], 1)
    session.ask("Fetch", version, fetch_body(topic, version, 3, session=number, session_epoch=2))
    session.ask("Fetch", version, empty | {"SessionEpoch": 2})  # an epoch again
    session.ask("Fetch", version, empty | {"SessionEpoch": 9})
    session.ask("Fetch", version, empty | {"SessionId": 123456, "SessionEpoch": 1})
    session.ask("Fetch", version, fetch_body(topic, version, 0, session=number, session_epoch=-1))  # close
    session.ask("Fetch", version, empty | {"SessionEpoch": 3})
    number = session.ask("Fetch", version, empty | {"SessionId": 0, "SessionEpoch": 0}).get("SessionId", 0)
    session.ask("Fetch", version, fetch_body(topic, version, 0, session=number, session_epoch=1))


@scenario("ListOffsets")
def offsets_by_time_and_special_values(session, version):
    name, _ = session.topic()
    session.fill(name, 10, per_batch=2)
    times = [0, 1000, 1500, 5000, 10_000, 10_001, 2**50, -1, -2, -3, -4, -5, -6, -7, -100]
    for asked in times:
        session.ask("ListOffsets", version, offsets_body(name, version, asked))
    session.ask("ListOffsets", version, offsets_body(session.name("empty-no"), version, -1))
    empty, _ = session.topic("empty")
    for asked in (-1, -2, -3, 0):
        session.ask("ListOffsets", version, offsets_body(empty, version, asked))


@scenario("ListOffsets", since=4)
def offsets_are_fenced_by_epoch(session, version):
    name, _ = session.topic()
    for epoch in (0, 1, 5, -1):
        session.ask("ListOffsets", version, offsets_body(name, version, -1, epoch))
    session.ask("ListOffsets", version, offsets_body(name, version, -1, partition=9))


@scenario("ListOffsets")
def offsets_of_partitions_named_twice(session, version):
    name, _ = session.topic(partitions=2)
    session.fill(name, 3)
    first, other, missing = (offsets_body(name, version, -1, partition=index)["Topics"][0]["Partitions"] for index in (0, 1, 9))
    one_entry = lambda wanted: [{"Name": name, "Partitions": wanted}]
    entries = (one_entry(first * 2 + other), one_entry(first + missing * 3 + other), one_entry(first) * 2, one_entry([]))
    for named in entries:
        session.ask("ListOffsets", version, offsets_body(name, version, -1) | {"Topics": named})


def offsets_body(topic, version, timestamp, epoch=-1, partition=0):
    wanted = {"PartitionIndex": partition, "Timestamp": timestamp}
    wanted |= {"CurrentLeaderEpoch": epoch} if version >= 4 else {}
    body = {"ReplicaId": -1, "Topics": [{"Name": topic, "Partitions": [wanted]}]}
    return body | ({"TimeoutMs": 5000} if version >= 10 else {})


@scenario("OffsetForLeaderEpoch")
def ends_of_leader_epochs(session, version):
    name, _ = session.topic()
    session.fill(name, 3)
    for current, epoch in [(-1, -1), (-1, 0), (0, 0), (0, 1), (1, 0), (5, 5), (-1, -2), (-2, 0)]:
        wanted = {"Partition": 0, "CurrentLeaderEpoch": current, "LeaderEpoch": epoch}
        body = {"Topics": [{"Topic": name, "Partitions": [wanted]}]} | ({"ReplicaId": -1} if version >= 3 else {})
        session.ask("OffsetForLeaderEpoch", version, body)


@scenario("OffsetForLeaderEpoch")
def ends_of_leader_epochs_of_what_is_not_there(session, version):
    name, _ = session.topic()
    session.fill(name, 3)
    at = lambda partition: {"Partition": partition, "CurrentLeaderEpoch": -1, "LeaderEpoch": 0}
    topics = [{"Topic": name, "Partitions": [at(0), at(9), at(-1)]}]
    topics += [{"Topic": missing, "Partitions": [at(0), at(1)]} for missing in (session.name("missing"), "not/a/name", "")]
    body = {"Topics": topics} | ({"ReplicaId": -1} if version >= 3 else {})
    session.ask("OffsetForLeaderEpoch", version, body)


@scenario("DeleteRecords")
def records_deleted_up_to_an_offset(session, version):
    name, _ = session.topic()
    session.fill(name, 10)
    for partition, offset in [(0, 3), (0, 2), (0, 11), (0, -1), (0, -2), (9, 0)]:
        wanted = [{"PartitionIndex": partition, "Offset": offset}]
        session.ask("DeleteRecords", version, {"Topics": [{"Name": name, "Partitions": wanted}], "TimeoutMs": 5000})
        session.ask("ListOffsets", 7, offsets_body(name, 7, -2))
    session.ask("Fetch", 12, fetch_body((name, None), 12, 0))
    for timeout_ms in (0, -1):
        body = {"Topics": [{"Name": name, "Partitions": [{"PartitionIndex": 0, "Offset": 3}]}], "TimeoutMs": timeout_ms}
        session.ask("DeleteRecords", version, body)


@scenario("InitProducerId")
def producer_ids(session, version):
    session.ask("InitProducerId", version, {"TransactionalId": None, "TransactionTimeoutMs": 60_000})
    session.ask("InitProducerId", version, {"TransactionalId": None, "TransactionTimeoutMs": -1})
    session.ask("InitProducerId", version, {"TransactionalId": "", "TransactionTimeoutMs": 60_000})
    if version >= 3:
        known = {"TransactionalId": None, "TransactionTimeoutMs": 60_000, "ProducerId": 4, "ProducerEpoch": 2}
        for half in ({}, {"ProducerId": -1}, {"ProducerEpoch": -1}):
            session.ask("InitProducerId", version, known | half)


@scenario("DescribeProducers")
def active_producers(session, version):
    topic = session.topic()
    session.ask("DescribeProducers", version, {"Topics": [{"Name": topic[0], "PartitionIndexes": [0, 9]}]})
    for name in (session.name("missing"), "not/a/name", ""):
        session.ask("DescribeProducers", version, {"Topics": [{"Name": name, "PartitionIndexes": [0]}]})
    producer = session.producer()
    session.ask("Produce", 9, produce_body(topic, 9, build(one(), producer=(producer, 0, 0))))
    session.ask("DescribeProducers", version, {"Topics": [{"Name": topic[0], "PartitionIndexes": [0]}]})
    session.ask("DescribeProducers", version, {"Topics": [{"Name": topic[0], "PartitionIndexes": [0, 0]}] * 2})
