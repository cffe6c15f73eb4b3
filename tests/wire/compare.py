"""Runs one scenario against two brokers and compares every answer, after making equal what may differ.

What may differ between two right brokers: identities, addresses, times of day, the wording of error messages. Identities
are numbered in the order in which they appear, so that two answers that name the same topic still have to agree on it.
"""

import time
import uuid

from harness import batch, schema
from harness.wire import Closed, Connection

# Fields that hold an identity: numbered per transcript and kind.
IDENTITIES = {
    "TopicId": "topic",
    "ClusterId": "cluster",
    "ProducerId": "producer",
    "producer_id": "producer",
    "MemberId": "member",
    "Leader": "member",
    "SessionId": "session",
    "NodeId": "node",
    "ControllerId": "node",
    "LeaderId": "node",
    "Host": "host",
    "ClientHost": "host",
    "Port": "port",
    "LogDir": "directory",
}
LISTS_OF_NODES = {"ReplicaNodes", "IsrNodes", "OfflineReplicas"}
# Values that are no identity but a statement: absent, none, invalid.
STATEMENTS = {-1, "", None, uuid.UUID(int=0)}
# Wording and measurements: only presence is compared.
PRESENCE = {"ErrorMessage", "BatchIndexErrorMessage", "ThrottleTimeMs", "TotalBytes", "UsableBytes", "PartitionSize", "Documentation"}
TIMES = {"timestamp", "LogAppendTimeMs", "LastTimestamp", "Timestamp", "MaxTimestamp"}
# What orders a list whose order means nothing.
NAMES = ("GroupId", "Name", "Topic", "TopicName", "PartitionIndex", "Partition", "Index", "ResourceName")
# Seconds without an answer after which a broker counts as silent.
SILENCE_S = 5


class Session:
    """One broker's side of a scenario; answers to `ask` go into the transcript."""

    def __init__(self, bootstrap, label):
        self.bootstrap, self.label = bootstrap, label
        self.transcript = []
        self.connection = Connection(bootstrap, SILENCE_S)

    def name(self, stem):
        """A name that is the same on both sides and used by no other scenario."""
        return f"{stem}-{self.label}"

    def ask(self, api, version, body):
        """Asks, records the answer or the closing of the connection, and returns it."""
        answer = self._exchange(lambda connection: connection.ask(api, version, body))
        self.transcript.append((f"{api} v{version}", answer))
        return answer

    def ask_frame(self, what, frame):
        """Sends a frame as it is and records whether it was answered, and the first error code if it begins with one."""

        def exchange(connection):
            connection.send_frame(frame)
            answer = connection.receive_frame()
            return {"Connection": "answered", "ErrorCode": answer[4:6] if what.startswith("ApiVersions") else None}

        self.transcript.append((what, self._exchange(exchange)))

    def quietly(self, api, version, body):
        """Asks outside the transcript, for preparation."""
        return self.connection.ask(api, version, body)

    def topic(self, stem="topic", partitions=1, **configs):
        """Creates a topic, waits until it has leaders, and returns its name and id."""
        name = self.name(stem)
        pairs = [{"Name": key.replace("_", "."), "Value": value} for key, value in configs.items()]
        topic = {"Name": name, "NumPartitions": partitions, "ReplicationFactor": 1, "Configs": pairs}
        answer = self.quietly("CreateTopics", 7, {"Topics": [topic], "timeoutMs": 10_000})["Topics"][0]
        assert answer["ErrorCode"] == 0, answer
        for _ in range(200):
            found = self.quietly("Metadata", 12, {"Topics": [{"Name": name}]})["Topics"][0]
            codes = [found["ErrorCode"]] + [partition["ErrorCode"] for partition in found["Partitions"]]
            if not any(codes) and len(found["Partitions"]) == partitions and self._leads(name, partitions):
                return name, found["TopicId"]
            time.sleep(0.02)
        raise AssertionError(f"{name} got no leaders: {found}")

    def _leads(self, topic, partitions):
        """Whether every partition answers: metadata knows a leader before the leader knows itself."""
        wanted = [{"PartitionIndex": index, "CurrentLeaderEpoch": 0, "Timestamp": -1} for index in range(partitions)]
        asked = {"ReplicaId": -1, "Topics": [{"Name": topic, "Partitions": wanted}]}
        answer = self.quietly("ListOffsets", 6, asked)["Topics"][0]["Partitions"]
        return not any(partition["ErrorCode"] for partition in answer)

    def fill(self, topic, count=10, partition=0, codec="none", per_batch=1):
        """Produces `count` records of times 1000, 2000, … and returns nothing."""
        for first in range(0, count, per_batch):
            records = [
                batch.Record(b"v%d" % index, b"k%d" % index, timestamp=1000 * (index + 1))
                for index in range(first, min(count, first + per_batch))
            ]
            data = [{"Index": partition, "Records": batch.build(records, codec)}]
            body = {"Acks": -1, "TimeoutMs": 10_000, "TopicData": [{"Name": topic, "PartitionData": data}]}
            answer = self.quietly("Produce", 9, body)["Responses"][0]["PartitionResponses"][0]
            assert answer["ErrorCode"] == 0, answer

    def producer(self):
        """A producer id."""
        for _ in range(500):
            given = self.quietly("InitProducerId", 4, {"TransactionalId": None, "TransactionTimeoutMs": 1000})
            if given["ErrorCode"] == 0:
                return given["ProducerId"]
            time.sleep(0.02)
        raise AssertionError(f"no producer id: {given}")

    def coordinator(self, group):
        """Waits until the group's coordinator has loaded (heartbeats are answered before)."""
        for _ in range(500):
            found = self.quietly("FindCoordinator", 3, {"Key": group, "KeyType": 0})
            if found["ErrorCode"] == 0:
                answer = self.quietly("OffsetFetch", 8, {"Groups": [{"GroupId": group, "Topics": None}]})["Groups"][0]
                if answer["ErrorCode"] == 0:
                    return
            time.sleep(0.02)
        raise AssertionError(f"no coordinator for {group}")

    def _exchange(self, exchange):
        try:
            return exchange(self.connection)
        except (Closed, TimeoutError) as ended:
            self.connection.close()
            self.connection = Connection(self.bootstrap, SILENCE_S)
            return {"Connection": "closed" if isinstance(ended, Closed) else "silent"}


class Normaliser:
    """Makes answers of one broker comparable with those of another."""

    def __init__(self):
        self.seen = {}

    def __call__(self, value, field=None):
        if isinstance(value, dict):
            return {key: self(inner, key) for key, inner in value.items()}
        if isinstance(value, list):
            inner = "NodeId" if field in LISTS_OF_NODES else field
            return [self(element, inner) for element in sorted(value, key=rank)]
        if field in IDENTITIES and value not in STATEMENTS and (field, value) != ("SessionId", 0):
            numbers = self.seen.setdefault(IDENTITIES[field], {})
            return f"{IDENTITIES[field]} {numbers.setdefault(value, len(numbers))}"
        if field in PRESENCE:
            return value if value in (None, -(2**31)) else "present"
        if field in TIMES and isinstance(value, int) and abs(value - time.time() * 1000) < 86_400_000:
            return "now"
        if field == "Records" and value:
            parsed = (vars(found) | {"records": [vars(one) for one in found.records]} for found in batch.parse(value))
            return [self(found) for found in parsed]
        return value


def rank(element):
    """Orders elements by their name, if they have one; equal ranks keep their order."""
    if not isinstance(element, dict):
        return ""
    return next((str(element[name]) for name in NAMES if element.get(name) is not None), "")


def differences(ours, theirs, path=""):
    """Paths at which two normalised values differ, with both values."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(set(ours) | set(theirs)):
            inner = f"{path}.{key}"
            if key not in ours or key not in theirs:
                yield inner, ours.get(key, "absent"), theirs.get(key, "absent")
            else:
                yield from differences(ours[key], theirs[key], inner)
    elif path.endswith(".Configs") and ours and theirs:
        # By name, so that one more on a side hides nothing else.
        yield from differences(*({config["Name"]: config for config in side} for side in (ours, theirs)), path)
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs)):
            yield from differences(one, other, f"{path}[{index}]")
    elif ours != theirs and not (path.endswith("ErrorMessage") and theirs is None):  # saying more is no harm
        yield path, ours, theirs


def run(scenario, version, brokers, label, expected):
    """Runs a scenario on both brokers; returns the unexpected differences as lines."""
    transcripts = []
    for bootstrap in brokers:
        session = Session(bootstrap, label)
        try:
            scenario(session, version)
        finally:
            session.connection.close()
        normalise = Normaliser()
        transcripts.append([(what, normalise(answer)) for what, answer in session.transcript])
    lines = []
    for index, ((what, ours), (_, theirs)) in enumerate(zip(*transcripts, strict=True)):
        for path, our, their in differences(ours, theirs):
            if not expected(scenario.__name__, f"{what}{path}", our, their):
                lines.append(f"{index}: {what}{path}: ours {our!r}, Kafka's {their!r}")
    return lines


def versions_of(api):
    """All versions of an API that Apache Kafka 4.3.1 accepts."""
    return list(schema.valid_versions(api))
