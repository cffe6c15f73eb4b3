"""Scenarios about frames: versions that nobody speaks, APIs that do not exist, bytes that are no request."""

import contextlib
import socket
import struct

from harness import schema
from harness.wire import Closed, Connection
from wire.registry import scenario

# What the broker has to offer: the APIs for ordinary clients, without transactions, and for those who run a cluster.
APIS = [
    "ApiVersions", "Metadata", "DescribeTopicPartitions", "DescribeCluster", "Produce", "Fetch", "ListOffsets",
    "OffsetForLeaderEpoch", "CreateTopics", "DeleteTopics", "CreatePartitions", "DescribeConfigs", "AlterConfigs",
    "IncrementalAlterConfigs", "DeleteRecords", "InitProducerId", "DescribeProducers", "DescribeLogDirs",
    "FindCoordinator", "JoinGroup", "SyncGroup", "Heartbeat", "LeaveGroup", "OffsetCommit", "OffsetFetch",
    "ListGroups", "DescribeGroups", "DeleteGroups", "OffsetDelete", "ElectLeaders", "AlterPartitionReassignments",
    "ListPartitionReassignments", "DescribeQuorum", "UnregisterBroker", "AddRaftVoter", "RemoveRaftVoter",
]  # fmt: skip


def header(key, version, correlation_id=1, client=b"\0\4test"):
    return struct.pack(">hhi", key, version, correlation_id) + client


@scenario("ApiVersions")
def versions_offered(session, version):
    asked = {"ClientSoftwareName": "suite", "ClientSoftwareVersion": "1.0"} if version >= 3 else {}
    answer = session.quietly("ApiVersions", version, asked)
    offered = {schema.api_keys()[api["ApiKey"]]: (api["MinVersion"], api["MaxVersion"]) for api in answer["ApiKeys"]}
    session.transcript.append((f"ApiVersions v{version}", {name: offered.get(name, "not offered") for name in APIS}))
    session.transcript.append((f"ApiVersions v{version} error", {"ErrorCode": answer["ErrorCode"]}))
    if version >= 3:
        session.ask("ApiVersions", version, {"ClientSoftwareName": "", "ClientSoftwareVersion": "1.0"})
        session.ask("ApiVersions", version, {"ClientSoftwareName": "a b", "ClientSoftwareVersion": "-"})


@scenario("DescribeCluster")
def versions_that_nobody_speaks(session, _):
    for name in APIS:
        spec, last = schema.request_of(name), schema.valid_versions(name)[-1]
        for version in (last + 1, 1000, -1):
            session.ask_frame(f"{name} v{version}", header(spec["apiKey"], version) + b"\0" * 20)
    for version in (5, 100):
        session.ask_frame(f"ApiVersions v{version}", header(18, version) + b"\0\1\1\0")


@scenario("DescribeCluster")
def frames_that_are_no_request(session, _):
    for key in (4, 5, 52, 58, 95, 1000, -1, -32768):
        session.ask_frame(f"key {key}", header(key, 0) + b"\0" * 20)
    session.ask_frame("empty frame", b"")
    session.ask_frame("half a header", b"\0\3\0")
    session.ask_frame("no body", header(3, 1))
    session.ask_frame("body cut off", schema.encode_request("Metadata", 1, {"Topics": [{"Name": "abc"}]})[:-2])
    session.ask_frame("bytes left over", schema.encode_request("Metadata", 9, {"Topics": []}) + b"\1\2\3")
    session.ask_frame("count beyond the frame", header(3, 1) + struct.pack(">i", 2**31 - 1))
    session.ask_frame("count beyond the frame, flexible", header(3, 9) + b"\0" + b"\xff\xff\xff\xff\x07")
    session.ask_frame("negative count", header(3, 1) + struct.pack(">i", -7))
    session.ask_frame("varint without end", header(3, 9) + b"\0" + b"\xff" * 12)
    session.ask_frame("client id beyond the frame", header(3, 1, client=b"\x7f\xff"))


@scenario("DescribeCluster")
def lengths_that_lie(session, _):
    for size in (-1, -(2**31), 2**31 - 1, 104_857_601):
        session.connection.socket.sendall(struct.pack(">i", size))
        session.connection.socket.settimeout(3)
        session.transcript.append((f"length {size}", session._exchange(lambda connection: {"Frame": connection.receive_frame()})))
        session.connection.socket.settimeout(30)


@scenario("DescribeCluster")
def a_client_that_closed_its_half(session, _):
    """Gets the answers to all that it had sent, then the end; half a request is no request."""
    whole = b"".join(struct.pack(">i", len(one)) + one for one in (header(18, 0, number) for number in (1, 2, 3)))
    for what, sent in (("three requests", whole), ("three requests and a half", whole + whole[:9])):
        with Connection(session.bootstrap, 20) as connection:
            connection.socket.sendall(sent)
            connection.socket.shutdown(socket.SHUT_WR)
            answered = []
            with contextlib.suppress(Closed):
                while True:
                    answered.append(struct.unpack(">i", connection.receive_frame()[:4])[0])
        session.transcript.append((what, {"Answered": answered}))
