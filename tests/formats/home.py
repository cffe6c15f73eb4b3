"""A small data directory with its bucket: how it is made, packed, unpacked, and what is expected of it.

Times are far in the past or never looked at, since a fixture is read for years: nothing in it may expire.
"""

import gzip
import io
import json
import tarfile
from pathlib import Path

from harness import batch, commits, topics
from harness.batch import Record
from harness.broker import Alluvium, run
from harness.odd_records import BINARY, EVENT_TIME, TEXT
from harness.patience import wait_until
from harness.wire import Connection

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
GROUP = "readers"
# Two topics of so many have the metadata make a snapshot.
SNAPSHOT_PARTITIONS = 6_000
SETTINGS = [
    "data.journal_file=1MiB", "data.journal_max=4MiB", "data.checkpoint_interval=500ms", "data.retention_interval=200ms",
    "groups.offsets_partitions=3", "groups.offsets_retention=36500d", "producers.id_expiration=36500d",
]  # fmt: skip
# Everything is in these, the bucket in the first.
DIRECTORIES = ("data", "more")
# A head lists so many segments itself at most, and spills older ones beyond.
INLINE_SEGMENTS = 256
# What is sealed leaves the local disk, and only a flush seals.
GONE = {"segment.ms": 100 * 365 * 86_400_000, "local.retention.ms": 1, "local.retention.bytes": 1}


def flags(directory):
    """What a broker on a home is started with."""
    settings = [*SETTINGS, "data.directories=" + ",".join(str(Path(directory, name)) for name in DIRECTORIES)]
    return [part for one in settings for part in ("--set", one)]


class Producer:
    """An idempotent producer of one partition, which remembers its last batch."""

    def __init__(self, bootstrap, topic):
        self.topic, self.sequence, self.last = topic, 0, None
        with Connection(bootstrap, 30) as connection:
            body = {"TransactionalId": None, "TransactionTimeoutMs": 60_000, "ProducerId": -1, "ProducerEpoch": -1}
            made = connection.ask("InitProducerId", 4, body)
        assert made["ErrorCode"] == 0, made
        self.id, self.epoch = made["ProducerId"], made["ProducerEpoch"]

    def produce(self, bootstrap, records, codec="none"):
        data = batch.build(records, codec, (self.id, self.epoch, self.sequence))
        offset = produce(bootstrap, self.topic, data)
        self.last = {"topic": self.topic, "data": data.hex(), "offset": offset}
        self.sequence += len(records)
        self.last["next"] = [self.id, self.epoch, self.sequence]


def send(bootstrap, topic, data, partition=0):
    """What a produce request is answered with."""
    with Connection(bootstrap, 60) as connection:
        parts = [{"Index": partition, "Records": data}]
        body = {"TransactionalId": None, "Acks": -1, "TimeoutMs": 30_000, "TopicData": [{"Name": topic, "PartitionData": parts}]}
        return connection.ask("Produce", 9, body)["Responses"][0]["PartitionResponses"][0]


def produce(bootstrap, topic, data, partition=0):
    """Produces a batch; returns its offset."""
    answer = send(bootstrap, topic, data, partition)
    assert answer["ErrorCode"] == 0, answer
    return answer["BaseOffset"]


def numbered(stem, count):
    return [Record(f"{stem} {number}".encode(), b"key", [], EVENT_TIME + number) for number in range(count)]


def listing(bootstrap, names):
    """All that consumers see, by topic and partition, in JSON's types."""

    def plain(data):
        return None if data is None else data.hex()

    def shown(record):
        headers = [[key, plain(value)] for key, value in record.headers]
        return [record.offset, record.timestamp, plain(record.key), plain(record.value), headers]

    seen = {}
    for (topic, partition), start in starts(bootstrap, names).items():
        found = topics.records(bootstrap, topic, partition, start)
        seen[f"{topic}/{partition}"] = {"start": start, "records": [shown(record) for record in found]}
    return seen


def starts(bootstrap, names):
    return {
        (topic, partition): topics.offset(bootstrap, topic, partition, topics.EARLIEST)
        for topic, partitions in names.items()
        for partition in range(partitions)
    }


def is_local(broker, topic):
    """Whether anything of the archived part is still on the local disk."""
    return topics.offset(broker.bootstrap, topic, 0, topics.EARLIEST_LOCAL) < topics.offset(
        broker.bootstrap, topic, 0, topics.LATEST_TIERED
    )


def snapshots(directory):
    return list(Path(directory, "data/object-store").glob("alluvium/v1/*/meta/groups/*.zst"))


def fill(broker):
    """The first life: everything that is archived, and committed offsets. Returns the idempotent producers."""
    at = broker.bootstrap
    for name, partitions, configs in [
        ("codecs", 2, {}),
        ("stamped", 1, {"message.timestamp.type": "LogAppendTime"}),
        ("archived", 1, GONE),
        ("seam", 1, GONE),
        ("shortened", 1, {}),
        ("buried", 1, {}),
        ("indexed", 1, {"remote.storage.enable": "false", "segment.bytes": "1048576"}),
        ("cached", 1, {"write.caching": "true"}),
        ("long", 1, GONE),
        ("wide", SNAPSHOT_PARTITIONS, {}),
        ("wider", SNAPSHOT_PARTITIONS, {}),
    ]:
        topics.create(at, name, partitions, configs)
    for partition in range(2):
        for codec in batch.CODECS:
            produce(at, "codecs", batch.build(TEXT + BINARY, codec), partition)
    produce(at, "stamped", batch.build(TEXT, "lz4"))
    producers = [Producer(at, name) for name in ("archived", "seam", "codecs")]
    for producer in producers:
        for round, codec in enumerate(batch.CODECS):
            producer.produce(at, numbered(f"first life {round}", 20) + BINARY, codec)
    produce(at, "archived", batch.build(TEXT, "zstd"))
    for number in range(4):
        produce(at, "shortened", batch.build(numbered(f"batch {number}", 5)))
    produce(at, "buried", batch.build(TEXT))
    produce(at, "cached", batch.build(TEXT))
    # Sealed segments, with their indexes beside them.
    for number in range(3):
        produce(at, "indexed", batch.build([Record(b"\0" * 600_000, b"%d" % number, [], EVENT_TIME + number)]))
    delete(at, "buried", "wide", "wider")
    commits.find_coordinator(at, GROUP)
    for committed in (3, 17):
        commits.Committer(at, GROUP, "codecs", 2).commit(committed)
    commits.Committer(at, "others", "seam", 1).commit(5)
    for number in range(INLINE_SEGMENTS + 4):
        produce(at, "long", batch.build(numbered(f"segment {number}", 1)))
        run("archive", "flush", "long", "--wait", "--bootstrap", at)
    for name in ("archived", "seam", "long"):
        run("archive", "flush", name, "--wait", "--bootstrap", at)
        wait_until(lambda name=name: not is_local(broker, name))
    return producers


def delete(bootstrap, *names):
    with Connection(bootstrap, 30) as connection:
        doomed = [{"Name": name, "TopicId": None} for name in names]
        gone = connection.ask("DeleteTopics", 6, {"Topics": doomed, "TimeoutMs": 30_000})
        assert not any(each["ErrorCode"] for each in gone["Responses"]), gone


def check_kinds(directory):
    """Every kind of file is there, or a later version would be held to less."""
    kinds = {
        "data/identity", "data/checkpoint", "data/journal/*.journal", "data/metadata/snapshot-*", "data/metadata/*.redb",
        "*/topics/*/*/*.segment", "*/topics/*/*/*.index", "more/identity", "data/object-store/**/head.json",
        "data/object-store/**/*.parquet", "data/object-store/**/*.aux", "data/object-store/**/*.zst",
        "data/object-store/**/cluster.json", "data/object-store/**/topic.json", "data/object-store/**/spill*",
    }  # fmt: skip
    missing = [kind for kind in sorted(kinds) if not any(Path(directory).glob(kind))]
    assert not missing, missing


def go_on(broker, producers):
    """The second life: records that only the journal has when it is killed."""
    at = broker.bootstrap
    with Connection(at, 30) as connection:
        cut = {"Name": "shortened", "Partitions": [{"PartitionIndex": 0, "Offset": 7}]}
        answer = connection.ask("DeleteRecords", 2, {"Topics": [cut], "TimeoutMs": 30_000})
        assert answer["Topics"][0]["Partitions"][0]["ErrorCode"] == 0, answer
    for producer in producers[1:]:
        producer.produce(at, numbered("second life", 10), "lz4")
    produce(at, "codecs", batch.build(TEXT), 1)
    commits.Committer(at, GROUP, "stamped", 1).commit(2)


def make(directory):
    """Makes a home in `directory` and returns what is expected of it."""
    broker = Alluvium(directory, *flags(directory))
    producers = fill(broker)
    before = len(snapshots(directory))
    broker.stop()
    # No checkpoint takes from the journal what the second life adds.
    broker.arguments += ["--set", "data.checkpoint_interval=1h"]
    broker.start()
    # The groups of the first life come to the bucket when the second begins.
    wait_until(lambda: len(snapshots(directory)) > before)
    go_on(broker, producers)
    names = {"codecs": 2, "stamped": 1, "archived": 1, "seam": 1, "shortened": 1, "indexed": 1, "cached": 1, "long": 1}
    expected = {
        "topics": names,
        "records": listing(broker.bootstrap, names),
        "committed": {GROUP: {"codecs": [17, 17], "stamped": [2]}, "others": {"seam": [5]}},
        "producers": [producer.last for producer in producers],
    }
    broker.kill()
    check_kinds(directory)
    return expected


def pack(directory, fixture, expected):
    """Keeps the data directories; times and owners are left out, so that the same content is the same file."""
    fixture.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path in sorted(Path(directory).rglob("*")):
            if path.relative_to(directory).parts[0] in DIRECTORIES and not path.is_symlink():
                info = tar.gettarinfo(path, str(path.relative_to(directory)))
                info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
                with path.open("rb") if path.is_file() else io.BytesIO() as content:
                    tar.addfile(info, content if path.is_file() else None)
    (fixture / "home.tar.gz").write_bytes(gzip.compress(packed.getvalue(), 9, mtime=0))
    listed = json.dumps(expected, separators=(",", ":")).encode()
    (fixture / "expected.json.gz").write_bytes(gzip.compress(listed, 9, mtime=0))


def unpack(fixture, directory):
    """Unpacks a fixture and returns what is expected of it."""
    with tarfile.open(fixture / "home.tar.gz") as tar:
        tar.extractall(directory, filter="data")
    return json.loads(gzip.decompress((fixture / "expected.json.gz").read_bytes()))
