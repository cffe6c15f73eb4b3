"""Topics, offsets and records by raw requests, so that what a broker said is known exactly."""

import time

from . import batch
from .wire import Connection

EARLIEST, LATEST, MAX_TIMESTAMP, EARLIEST_LOCAL, LATEST_TIERED, EARLIEST_PENDING_UPLOAD = -2, -1, -3, -4, -5, -6
NOT_YET = {3, 5, 6, 7, 14, 15, 16, 56, 75, 100}  # retriable while a broker starts, or while a bucket does not answer
FETCH_BYTES = 8 << 20
PATIENCE_S = 60


def create(bootstrap, name, partitions=1, configs=None):
    """Makes a topic and waits until all of it has leaders; returns its name."""
    pairs = [{"Name": key, "Value": str(value)} for key, value in (configs or {}).items()]
    wanted = {"Name": name, "NumPartitions": partitions, "ReplicationFactor": 1, "Configs": pairs}
    with Connection(bootstrap, 30) as connection:
        made = connection.ask("CreateTopics", 7, {"Topics": [wanted], "timeoutMs": 10_000})["Topics"][0]
        assert made["ErrorCode"] == 0, made
        for _ in range(500):
            found = list_offsets(connection, name, range(partitions), EARLIEST, version=6)
            if not any(place["ErrorCode"] for place in found):
                return name
            time.sleep(0.02)
    raise AssertionError(f"{name} has no leaders: {found}")


def list_offsets(connection, topic, partitions, timestamp, version=11):
    """What ListOffsets answers for some partitions of a topic, in their order."""
    places = [{"PartitionIndex": index, "CurrentLeaderEpoch": -1, "Timestamp": timestamp} for index in partitions]
    asked = {"ReplicaId": -1, "IsolationLevel": 0, "Topics": [{"Name": topic, "Partitions": places}]}
    return connection.ask("ListOffsets", version, asked)["Topics"][0]["Partitions"]


def offset(bootstrap, topic, partition, timestamp):
    """One offset by time or by meaning; −1 when there is none."""
    with Connection(bootstrap, 30) as connection:
        found = list_offsets(connection, topic, [partition], timestamp)[0]
    assert found["ErrorCode"] == 0, found
    return found["Offset"]


def batches(bootstrap, topic, partition=0, start=0):
    """All batches of a partition from an offset up to its high watermark, each beginning where the one before ended."""
    at, until = start, time.monotonic() + PATIENCE_S
    with Connection(bootstrap, PATIENCE_S) as connection:
        while True:
            wanted = {"Partition": partition, "FetchOffset": at, "PartitionMaxBytes": FETCH_BYTES}
            body = {"MaxWaitMs": 500, "MinBytes": 0, "MaxBytes": FETCH_BYTES, "IsolationLevel": 0}
            body["Topics"] = [{"Topic": topic, "Partitions": [wanted]}]
            found = connection.ask("Fetch", 12, body)["Responses"][0]["Partitions"][0]
            assert found["ErrorCode"] in {0} | NOT_YET, found
            assert time.monotonic() < until, f"nothing at {at} for {PATIENCE_S} s: {found}"
            if found["ErrorCode"]:
                time.sleep(0.05)
                continue
            if at >= found["HighWatermark"]:
                return
            # An answer without records is one that the archive was too slow for: it is asked again.
            for one in batch.parse(found["Records"] or b""):
                assert one.base_offset == at or one.base_offset < at == start, f"{one.base_offset} comes where {at} should"
                at, until = one.next_offset, time.monotonic() + PATIENCE_S
                yield one


def records(bootstrap, topic, partition=0, start=0):
    """All records of a partition from an offset on."""
    found = [record for one in batches(bootstrap, topic, partition, start) for record in one.records]
    return [record for record in found if record.offset >= start]
