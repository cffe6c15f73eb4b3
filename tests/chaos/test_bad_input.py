"""Hostile bytes: 10,000 mutated frames against a live broker. It does not crash, does not grow, and other clients notice
nothing.

    ALLUVIUM_SEED=7 ALLUVIUM_FRAMES=10000 tests/tools pytest tests/chaos/test_bad_input.py
"""

import contextlib
import os
import random
import re
import socket
import struct
import threading
import time
import urllib.request
import uuid

import pytest

from chaos import ledger
from harness import batch, commits, schema, topics
from harness.broker import Alluvium, cpu_seconds, peak_bytes, rss_bytes
from harness.wire import Closed, Connection
from wire.scenarios_frames import APIS

SEED = int(os.environ.get("ALLUVIUM_SEED") or random.randrange(2**32))
FRAMES = int(os.environ.get("ALLUVIUM_FRAMES", "10000"))
# What the process may grow by while it is under fire, after a first fifth of it has warmed it up.
GROWTH_BYTES = 64 << 20
# What its peak may grow by while clients ask for the same very often: some answers at a time, and what they were asked with.
PEAK_GROWTH_BYTES = 200 << 20
# What another client may wait for an answer meanwhile: far more than it should, as machines are shared.
LONGEST_WAIT_S = 15
# Topics in one request, and connections that send it at once.
NAMES, CROWD = 60_000, 3
# What names that come again and again may cost, compared with as many that do not: less than twice as much was seen.
PROPORTION = 8
# HTTP connections that ask nothing: more than are served at a time.
SILENT = 100
# How long an HTTP connection may last.
HTTP_LIFETIME_S = 60
INVALID_REQUEST, ELECTION_NOT_NEEDED, UNKNOWN_TOPIC_ID = 42, 84, 100


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


def watch(bootstrap, topic, stop, failures, waits):
    """Another client: produces all the time, and notes how long each answer took."""
    offset = 0
    with Connection(bootstrap, 20) as connection:
        while not stop.is_set():
            try:
                data = [{"Index": 0, "Records": batch.build([batch.Record(b"%d" % offset)])}]
                body = {"Acks": -1, "TimeoutMs": 5000, "TopicData": [{"Name": topic, "PartitionData": data}]}
                began = time.monotonic()
                answer = connection.ask("Produce", 9, body)["Responses"][0]["PartitionResponses"][0]
                waits.append(time.monotonic() - began)
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
    stop, failures, waits = threading.Event(), [], []
    other = threading.Thread(target=watch, args=(broker.bootstrap, "bystander", stop, failures, waits))
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
    assert max(waits) < LONGEST_WAIT_S, f"another client waited {max(waits):.2f} s for one of {len(waits)} answers"
    print(f"{FRAMES} frames; resident MiB after each fifth: {[size >> 20 for size in sizes]}")
    print(f"another client waited {1000 * max(waits):.0f} ms at most for {len(waits)} answers")
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
    made = {"Topics": [{"Name": f"new-{number}", "NumPartitions": 1, "ReplicationFactor": 1} for number in range(10_000)]}
    yield "CreateTopics", 7, made | {"validateOnly": True}, lambda answer: {each["ErrorCode"] for each in answer["Topics"]} == {0}
    # There is no position to delete, as the group would go with it.
    deleted = [{"Name": topic, "Partitions": [{"PartitionIndex": 1}]}] * 1000
    yield "OffsetDelete", 0, {"GroupId": group, "Topics": deleted}, lambda answer: answer["ErrorCode"] == 0 and len(answer["Topics"]) == 1
    yield "DescribeGroups", 5, {"Groups": [group] * 200_000}, lambda answer: is_cut(answer["Groups"], 200_000)
    led = {"ElectionType": 0, "TopicPartitions": [{"Topic": topic, "Partitions": [0] * 200_000}], "TimeoutMs": 5000}
    elected = lambda answer: {each["ErrorCode"] for each in answer["ReplicaElectionResults"][0]["PartitionResult"]}
    yield "ElectLeaders", 2, led, lambda answer: elected(answer) <= {ELECTION_NOT_NEEDED, INVALID_REQUEST}
    moved = {"TimeoutMs": 5000, "Topics": [{"Name": topic, "PartitionIndexes": [0] * 200_000}]}
    yield "ListPartitionReassignments", 0, moved, lambda answer: answer["Topics"] == []


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
    topics.create(broker.bootstrap, topic, 2)
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


def positions(names, **value):
    """The first topic with a position, the others with none: what they cost is all for their names."""
    return [{"Name": name, "Partitions": [{"PartitionIndex": 0} | value][:number == 0]} for number, name in enumerate(names)]


def commit(names):
    """Positions of a group, of which one is kept."""
    entries = positions(names, CommittedOffset=1, CommittedMetadata="")
    return 8, {"GroupId": "readers", "GenerationIdOrMemberEpoch": -1, "MemberId": "", "Topics": entries}


# Requests for topics of these names, in which nothing is made or removed but a position.
CROWDED = {
    "OffsetCommit": commit,
    "OffsetDelete": lambda names: (0, {"GroupId": "readers", "Topics": positions(names)}),
    "CreateTopics": lambda names: (7, {"Topics": [{"Name": name, "NumPartitions": 0, "ReplicationFactor": 1} for name in names], "validateOnly": True}),
    "DeleteTopics": lambda names: (6, {"Topics": [{"Name": name} for name in names], "TimeoutMs": 1000}),
    "CreatePartitions": lambda names: (3, {"Topics": [{"Name": name, "Count": 2} for name in names], "TimeoutMs": 1000, "ValidateOnly": True}),
}


def attended(broker, frame):
    """Has a few connections send a frame at once. What the broker spends on them and the longest that another client waits
    meanwhile, in seconds, and an answer."""
    waits, answered = [], threading.Event()

    def produce_meanwhile():
        while not answered.is_set():
            began = time.monotonic()
            try:
                produce_one(broker.bootstrap, "bystander")
            finally:
                waits.append(time.monotonic() - began)
            time.sleep(0.01)

    before = cpu_seconds(broker.pid)
    crowd = [Connection(broker.bootstrap, 120) for _ in range(CROWD)]
    other = threading.Thread(target=produce_meanwhile)
    other.start()
    try:
        for connection in crowd:
            connection.send_frame(frame)
        answers = [connection.receive_frame() for connection in crowd]
    finally:
        answered.set()
        other.join()
        for connection in crowd:
            connection.close()
    return cpu_seconds(broker.pid) - before, max(waits), answers[0]


@pytest.fixture
def broker(tmp_path):
    """One that is stopped also where a case fails, as it may be busy for long then."""
    started = Alluvium(tmp_path)
    yield started
    started.stop()


@pytest.mark.parametrize("api", CROWDED)
def test_names_that_come_again_cost_what_others_cost(broker, api):
    for topic in ("often", "bystander"):
        topics.create(broker.bootstrap, topic, 1)
    commits.find_coordinator(broker.bootstrap, "readers")
    with Connection(broker.bootstrap) as connection:
        connection.ask("OffsetCommit", *commit(["often"]))
    others = [f"missing-{number}" for number in range(NAMES)]
    # A topic that is there again and again; where that is told once, others twice each.
    is_of_group = api.startswith("Offset")
    again = ["often"] * NAMES if is_of_group else others[: NAMES // 2] * 2
    requests = [CROWDED[api](["often", *names]) for names in (others, again)]
    frames = [schema.encode_request(api, version, body) for version, body in requests]
    cost, usual, _ = attended(broker, frames[0])
    cost_again, longest, answer = attended(broker, frames[1])
    print(f"{api}: {cost:.2f} and {cost_again:.2f} s of CPU; another client waited {usual:.3f} and {longest:.3f} s at most")
    told = codes(schema.decode_response(api, requests[1][0], answer)[1])
    assert told == ([0] if is_of_group else [told[0]] + [INVALID_REQUEST] * (NAMES // 2)), f"{len(told)}: {set(told)}"
    assert cost_again < PROPORTION * cost
    assert longest < PROPORTION * max(usual, cost)


def codes(answer):
    """The error codes of what was named, of partitions where there are any."""
    [named] = (value for value in answer.values() if isinstance(value, list))
    return [one["ErrorCode"] for topic in named for one in topic.get("Partitions", [topic])]


def test_no_client_forges_a_line_of_the_log(tmp_path):
    broker = Alluvium(tmp_path, "--set", "telemetry.log_filter=debug")
    commits.find_coordinator(broker.bootstrap, "readers")
    banner = len(broker.log.read_bytes().rpartition(b"\n")[0])
    # As a terminal or a collector would take it for one of the broker's own, or for its end.
    forged = "x\n2026-01-01T00:00:00.000000Z ERROR alluvium: forged\r\n\x1b[31mforged\x1b[0m\0\u2028forged"
    named = {"GroupId": forged, "ProtocolType": "consumer", "Protocols": [{"Name": forged, "Metadata": b""}]}
    times = {"SessionTimeoutMs": 10_000, "RebalanceTimeoutMs": 10_000, "MemberId": "", "GroupInstanceId": forged, "Reason": forged}
    wanted = {"Name": forged, "NumPartitions": 1, "ReplicationFactor": 1, "Configs": [{"Name": forged, "Value": forged}]}
    with Connection(broker.bootstrap, 30) as connection:
        ask = lambda api, version, body: answer_to(connection, api, version, body, forged)
        ask("ApiVersions", 3, {"ClientSoftwareName": forged, "ClientSoftwareVersion": forged})
        joined = ask("JoinGroup", 9, named | times)
        assert joined["ErrorCode"] == 0 and forged in joined["MemberId"], joined
        who = {"GroupId": forged, "GenerationId": joined["GenerationId"], "MemberId": joined["MemberId"]}
        ask("SyncGroup", 3, who | {"Assignments": [{"MemberId": joined["MemberId"], "Assignment": b""}]})
        ask("Heartbeat", 3, who | {"MemberId": forged})
        left = [{"MemberId": joined["MemberId"], "GroupInstanceId": forged, "Reason": forged}]
        ask("LeaveGroup", 5, {"GroupId": forged, "Members": left})
        ask("CreateTopics", 7, {"Topics": [wanted], "timeoutMs": 5000})
        ask("Metadata", 9, {"Topics": [{"Name": forged}], "AllowAutoTopicCreation": True})
        ask("Produce", 9, {"Acks": -1, "TimeoutMs": 5000, "TransactionalId": forged, "TopicData": [{"Name": forged, "PartitionData": []}]})
        ask("FindCoordinator", 3, {"Key": forged, "KeyType": 0})
        ask("DeleteGroups", 2, {"GroupsNames": [forged]})
    with urllib.request.urlopen(f"http://{broker.http}/metrics", timeout=30) as metrics:
        assert "\nforged" not in metrics.read().decode()
    broker.stop()
    log = broker.log.read_bytes()[banner:].decode()
    assert "forged" in log, "nothing of what the client said was logged"
    lines = [line for line in re.split("[\n\r\u2028]", log) if line]
    alien = [line for line in lines if not re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z +[A-Z]+ [\w:{]", line) or line.startswith("2026-01-01")]
    assert not alien, alien[:5]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", log), "control characters"


def answer_to(connection, api, version, body, client_id):
    """What `Connection.ask` does, for a client of another name."""
    connection.send_frame(schema.encode_request(api, version, body, 7, client_id))
    return schema.decode_response(api, version, connection.receive_frame())[1]


def test_silent_http_connections_keep_no_probe_waiting(broker):
    with contextlib.ExitStack() as opened:
        host, port = broker.http.rsplit(":", 1)
        connect = lambda: opened.enter_context(socket.create_connection((host, int(port)), 120))
        # They ask nothing, half of something, or keep open what was answered.
        for asked in (b"", b"GET /health", b"GET /health/live HTTP/1.1\r\nHost: broker\r\n\r\n"):
            for _ in range(SILENT):
                connect().sendall(asked)
            began = time.monotonic()
            with urllib.request.urlopen(f"http://{broker.http}/health/ready", timeout=120) as answer:
                assert answer.status == 200
            assert time.monotonic() - began < HTTP_LIFETIME_S / 2, asked
