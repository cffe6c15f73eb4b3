"""Hostile bytes: 10,000 mutated frames against a live broker. It does not crash, does not grow, and other clients notice
nothing.

    ALLUVIUM_SEED=7 ALLUVIUM_FRAMES=10000 tests/tools pytest tests/chaos/test_bad_input.py
"""

import os
import random
import socket
import struct
import threading
import time
import uuid

from chaos import ledger
from harness import batch, commits, schema, topics
from harness.broker import Alluvium, peak_bytes, rss_bytes
from harness.wire import Closed, Connection
from wire.scenarios_frames import APIS

SEED = int(os.environ.get("ALLUVIUM_SEED") or random.randrange(2**32))
FRAMES = int(os.environ.get("ALLUVIUM_FRAMES", "10000"))
# What the process may grow by while it is under fire, after a first fifth of it has warmed it up.
GROWTH_BYTES = 64 << 20
# What its peak may grow by while clients ask for the same very often: some answers at a time, and what they were asked with.
PEAK_GROWTH_BYTES = 250 << 20
INVALID_REQUEST, UNKNOWN_TOPIC_ID = 42, 100


def seeds(topic):
    """Valid requests of every API in every version, for the mutations to start from."""
    data = batch.build([batch.Record(b"v" * 50, b"k", [("h", b"x")], 1000) for _ in range(5)], "lz4")
    fillers = {"bytes": b"\0\1", "records": data, "string": topic, "uuid": uuid.UUID(int=9), "bool": True}
    for api in APIS:
        for version in schema.valid_versions(api):
            message = schema.Message(schema.request_of(api), version)
            yield schema.encode_request(api, version, filled(message, message.fields, fillers))


def filled(message, fields, fillers):
    """A value for every field, one element in every list."""
    value = {}
    for field in fields:
        if not schema.in_range(field["versions"], message.version):
            continue
        kind = field["type"]
        element = kind.removeprefix("[]")
        if element in schema.FIXED:
            one = 1
        elif element in fillers:
            one = fillers[element]
        else:
            one = filled(message, message._fields_of(field), fillers)
        value[field["name"]] = [one] if kind.startswith("[]") else one
    return value


def mutate(chance, frame, corpus):
    """One to four wounds: bits, bytes, lengths, cuts, splices."""
    frame = bytearray(frame)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(frame)) if frame else 0
        match chance.randrange(7):
            case 0 if frame:
                frame[at] ^= 1 << chance.randrange(8)
            case 1 if frame:
                frame[at] = chance.choice([0, 1, 127, 128, 255])
            case 2 if len(frame) >= 4:
                at = min(at, len(frame) - 4)
                lie = chance.choice([-1, -2, 2**31 - 1, -(2**31), 2**24, 65535, chance.getrandbits(31)])
                frame[at : at + 4] = struct.pack(">i", lie)
            case 3:
                del frame[at:]
            case 4:
                frame[at:at] = chance.randbytes(chance.randint(1, 40))
            case 5:
                frame[at:] = chance.choice(corpus)[at:]
            case 6:
                frame[at:at] = b"\xff" * chance.randint(1, 12)
    return bytes(frame)


def fire(bootstrap, frames):
    """Sends frames, some with a length that lies; a closed connection is opened again."""
    host, port = bootstrap.split(":")
    connection = None
    for lie, frame in frames:
        try:
            if connection is None:
                connection = socket.create_connection((host, int(port)), 10)
                connection.settimeout(0.002)
            connection.sendall(struct.pack(">i", len(frame) + lie) + frame)
            connection.recv(1 << 16)
        except TimeoutError:
            if lie:
                connection.close()
                connection = None
        except OSError:
            connection = None
    if connection:
        connection.close()


def watch(bootstrap, topic, stop, failures):
    """Another client: produces and reads back all the time."""
    offset = 0
    with Connection(bootstrap, 20) as connection:
        while not stop.is_set():
            try:
                data = [{"Index": 0, "Records": batch.build([batch.Record(b"%d" % offset)])}]
                body = {"Acks": -1, "TimeoutMs": 5000, "TopicData": [{"Name": topic, "PartitionData": data}]}
                answer = connection.ask("Produce", 9, body)["Responses"][0]["PartitionResponses"][0]
                assert (answer["ErrorCode"], answer["BaseOffset"]) == (0, offset), answer
                offset += 1
            except (AssertionError, Closed, OSError) as failure:
                failures.append(repr(failure))
                return
            time.sleep(0.01)


def test_mutated_frames_change_nothing_for_others(tmp_path):
    print(f"replay with ALLUVIUM_SEED={SEED} ALLUVIUM_FRAMES={FRAMES}")
    chance = random.Random(SEED)
    broker = Alluvium(tmp_path)
    for topic in ("victim", "bystander"):
        topics.create(broker.bootstrap, topic, ledger.PARTITIONS)
    corpus = list(seeds("victim"))
    stop, failures = threading.Event(), []
    other = threading.Thread(target=watch, args=(broker.bootstrap, "bystander", stop, failures))
    other.start()
    sizes = []
    for _ in range(5):
        lies = [chance.choice([0, 0, 0, 0, 0, 0, 0, 1000, -3, 2**20]) for _ in range(FRAMES // 5)]
        fire(broker.bootstrap, [(lie, mutate(chance, chance.choice(corpus), corpus)) for lie in lies])
        assert broker.process.poll() is None, broker.tail()
        sizes.append(rss_bytes(broker.pid))
    stop.set()
    other.join(30)
    assert not failures, failures
    assert "panicked" not in broker.log.read_text(), broker.tail()
    assert sizes[-1] - sizes[0] < GROWTH_BYTES, f"resident bytes after each fifth: {sizes}"
    print(f"{FRAMES} frames; resident MiB after each fifth: {[size >> 20 for size in sizes]}")
    broker.stop()


def repeated(topic, group):
    """Requests that name the same thing very often, with how their answers are looked at."""
    named, asked = {"Name": topic}, {"ResourceType": 2, "ResourceName": topic, "ConfigurationKeys": None}
    positions = {"GroupId": group, "Topics": [{"Name": topic, "PartitionIndexes": [0] * 100_000}]}
    producers = [{"Name": topic, "PartitionIndexes": [0] * 200_000}]
    by_id = [named | {"TopicId": uuid.UUID(int=number)} for number in range(1, 20_000)]
    yield "Metadata", 9, {"Topics": [named] * 200_000}, lambda answer: [each["ErrorCode"] for each in answer["Topics"]] == [0]
    yield "Metadata", 12, {"Topics": by_id}, lambda answer: {each["ErrorCode"] for each in answer["Topics"]} == {UNKNOWN_TOPIC_ID}
    yield "DescribeConfigs", 4, {"Resources": [asked] * 30_000}, lambda answer: is_cut(answer["Results"])
    yield "OffsetFetch", 8, {"Groups": [{"GroupId": group, "Topics": None}] * 50_000}, lambda answer: is_cut(answer["Groups"])
    yield "OffsetFetch", 8, {"Groups": [positions]}, lambda answer: answer["Groups"][0]["ErrorCode"] == INVALID_REQUEST
    yield "DescribeProducers", 0, {"Topics": producers}, lambda answer: is_cut(answer["Topics"][0]["Partitions"], 200_000)
    yield "DescribeGroups", 5, {"Groups": [group] * 200_000}, lambda answer: is_cut(answer["Groups"], 200_000)


def fetch_body(topic, max_wait_ms):
    partition = {"Partition": 0, "CurrentLeaderEpoch": -1, "FetchOffset": 0, "LogStartOffset": -1, "PartitionMaxBytes": 1 << 20}
    limits = {"ReplicaId": -1, "MaxWaitMs": max_wait_ms, "MinBytes": 1, "MaxBytes": 50 << 20, "IsolationLevel": 0}
    wanted = {"SessionId": 0, "SessionEpoch": -1, "Topics": [{"Topic": topic, "Partitions": [partition]}]}
    return limits | wanted | {"ForgottenTopicsData": [], "RackId": ""}


def produce_one(bootstrap, topic):
    data = [{"Index": 0, "Records": batch.build([batch.Record(b"value" * 100)])}]
    with Connection(bootstrap, 30) as connection:
        body = {"Acks": -1, "TimeoutMs": 5000, "TopicData": [{"Name": topic, "PartitionData": data}]}
        assert connection.ask("Produce", 9, body)["Responses"][0]["PartitionResponses"][0]["ErrorCode"] == 0


def is_cut(parts, most=0):
    """The first is answered, and what there is no room for says so; `most` may fit."""
    codes = [part["ErrorCode"] for part in parts]
    return codes[0] == 0 and set(codes) <= {0, INVALID_REQUEST} and (len(codes) <= most or codes[-1] == INVALID_REQUEST)


def test_names_that_come_very_often_take_bounded_memory(tmp_path):
    broker = Alluvium(tmp_path, "--set", "memory.budget=128MiB", "--set", "network.request_timeout=6s")
    topic, group = "often", "readers"
    topics.create(broker.bootstrap, topic, 1)
    commits.find_coordinator(broker.bootstrap, group)
    position = {"PartitionIndex": 0, "CommittedOffset": 1, "CommittedMetadata": "m" * 4000}
    with Connection(broker.bootstrap) as connection:
        made = {"GroupId": group, "GenerationIdOrMemberEpoch": -1, "MemberId": "", "Topics": [{"Name": topic, "Partitions": [position]}]}
        assert connection.ask("OffsetCommit", 8, made)["Topics"][0]["Partitions"][0]["ErrorCode"] == 0
    before = peak_bytes(broker.pid)
    requests = list(repeated(topic, group))
    # Some take their answers, others never do. A fetch that waits is before them, whose answer needs memory first.
    idle = [Connection(broker.bootstrap, 60) for _ in requests]
    for connection, (api, version, body, _) in zip(idle, requests):
        connection.send("Fetch", 11, fetch_body(topic, max_wait_ms=2000))
        connection.send(api, version, body)
    produce_one(broker.bootstrap, topic)
    with Connection(broker.bootstrap, 120) as connection:
        for api, version, body, is_right in requests:
            assert is_right(connection.ask(api, version, body)), api
    grown = peak_bytes(broker.pid) - before
    print(f"{len(idle) + len(requests)} requests; the peak grew by {grown >> 20} MiB")
    assert grown < PEAK_GROWTH_BYTES, f"{grown >> 20} MiB"
    for connection in idle:
        connection.close()
    broker.stop()
