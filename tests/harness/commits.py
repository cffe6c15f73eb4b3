"""Very many committed offsets over few keys, and what they leave behind."""

import struct
import threading
import time
from pathlib import Path

from . import schema
from .wire import Connection

# Stands in a request where the offset goes.
MARK = 0x1234_5678_9ABC_DEF0


class Committer:
    """Commits offsets of one group for all partitions of a topic, request after request on one connection."""

    def __init__(self, bootstrap, group, topic, partitions):
        self.connection = Connection(bootstrap, timeout_s=60)
        self.group, self.topic, self.partitions = group, topic, partitions
        entries = [{"PartitionIndex": index, "CommittedOffset": MARK, "CommittedMetadata": ""} for index in range(partitions)]
        body = {"GroupId": group, "GenerationIdOrMemberEpoch": -1, "MemberId": ""}
        frame = schema.encode_request("OffsetCommit", 9, body | {"Topics": [{"Name": topic, "Partitions": entries}]})
        self.parts = frame.split(struct.pack(">q", MARK))
        assert len(self.parts) == partitions + 1
        self.good = None

    def commit(self, offset):
        """Commits one offset for every partition."""
        self.connection.send_frame(struct.pack(">q", offset).join(self.parts))
        answer = self.connection.receive_frame()
        if self.good is None:
            _, body = schema.decode_response("OffsetCommit", 9, answer)
            errors = {one["ErrorCode"] for topic in body["Topics"] for one in topic["Partitions"]}
            if errors != {0}:
                raise AssertionError(f"{self.group}: {errors}")
            self.good = answer
        assert answer == self.good, answer


def wait_for(bootstrap, group, expected, within_s=60):
    """Waits until a group's committed offsets can be read, checks them, and returns the seconds that took."""
    began = time.monotonic()
    while True:
        try:
            with Connection(bootstrap) as connection:
                answer = connection.ask("OffsetFetch", 8, {"Groups": [{"GroupId": group, "Topics": None}]})["Groups"][0]
        except OSError:
            answer = {"ErrorCode": -1}
        if answer["ErrorCode"] == 0:
            found = {(topic["Name"], one["PartitionIndex"]): one["CommittedOffset"] for topic in answer["Topics"] for one in topic["Partitions"]}
            assert found == expected, f"{len(found)} offsets of {len(expected)}"
            return time.monotonic() - began
        assert time.monotonic() - began < within_s, answer
        time.sleep(0.005)


def create_topic(bootstrap, topic, partitions):
    """Creates a topic whose partitions are committed for."""
    with Connection(bootstrap, 60) as connection:
        wanted = {"Name": topic, "NumPartitions": partitions, "ReplicationFactor": 1}
        made = connection.ask("CreateTopics", 7, {"Topics": [wanted], "timeoutMs": 30_000})["Topics"][0]
        assert made["ErrorCode"] == 0, made


def find_coordinator(bootstrap, group):
    """Has `__consumer_offsets` made, and waits until the group's coordinator has read what is in it. It says that it has not by
    refusing to tell offsets; a heartbeat would be answered as if nothing were the matter."""
    with Connection(bootstrap, 60) as connection:
        for _ in range(600):
            found = connection.ask("FindCoordinator", 3, {"Key": group, "KeyType": 0})
            if found["ErrorCode"] == 0:
                found = connection.ask("OffsetFetch", 8, {"Groups": [{"GroupId": group, "Topics": None}]})["Groups"][0]
                if found["ErrorCode"] == 0:
                    return
            time.sleep(0.02)
    raise AssertionError(f"no coordinator: {found}")


def disk_bytes(directory):
    """Bytes that the segments below a directory take on disk; the journal is of a fixed size and not counted."""
    blocks = 0
    for path in Path(directory, "topics").rglob("*"):
        try:
            blocks += path.stat().st_blocks
        except FileNotFoundError:
            pass  # removed meanwhile, which is the point
    return blocks * 512


class Load:
    """`groups` groups that commit for `partitions` partitions each, side by side, until `commits` offsets were committed."""

    def __init__(self, broker, label, groups=10, partitions=100):
        self.broker, self.topic, self.partitions = broker, f"{label}-topic", partitions
        self.groups = [f"{label}-{number}" for number in range(groups)]
        create_topic(broker.bootstrap, self.topic, partitions)
        for group in self.groups:
            find_coordinator(broker.bootstrap, group)
        self.rounds, self.largest_bytes = 0, 0

    def run(self, commits):
        """Returns the seconds that it took; `largest_bytes` is the most disk that was seen."""
        rounds, failures = commits // (len(self.groups) * self.partitions), []
        first, self.rounds = self.rounds, self.rounds + rounds

        def work(group):
            try:
                committer = Committer(self.broker.bootstrap, group, self.topic, self.partitions)
                for number in range(first, first + rounds):
                    committer.commit(number)
                committer.connection.close()
            except Exception as failure:  # told by the thread that waits
                failures.append(failure)

        threads = [threading.Thread(target=work, args=(group,)) for group in self.groups]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self.largest_bytes = max(self.largest_bytes, disk_bytes(self.broker.directory / "data"))
            threads[0].join(0.5)
        if failures:
            raise failures[0]
        return time.monotonic() - began

    def check(self):
        """Waits until every group's offsets can be read, checks them, and returns the longest wait in seconds."""
        expected = {(self.topic, index): self.rounds - 1 for index in range(self.partitions)}
        began = time.monotonic()
        for group in self.groups:
            wait_for(self.broker.bootstrap, group, expected)
        return time.monotonic() - began
