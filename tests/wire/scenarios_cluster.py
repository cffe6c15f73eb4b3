"""Scenarios about leaders, reassignments, and the quorum, as far as a lone broker has them."""

import uuid

from wire.registry import scenario

# A broker that neither side has.
NOBODY = 99
WRONG_CLUSTER = "AAAAAAAAAAAAAAAAAAAAAA"


def named(topic, *partitions):
    return [{"Topic": topic, "Partitions": list(partitions)}]


@scenario("ElectLeaders")
def leaders_elected_where_all_lead(session, version):
    name, _ = session.topic(partitions=2)
    missing = session.name("missing")
    for kind in ({"ElectionType": number} for number in (0, 1, 2, -1)) if version >= 1 else ({},):
        for topics in (named(name, 0, 1), named(name, 7, -1), named(missing, 0), named(name, 0) + named(missing, 0), []):
            for timeout_ms in (5000, 0, -1):
                session.ask("ElectLeaders", version, kind | {"TopicPartitions": topics, "TimeoutMs": timeout_ms})


@scenario("ElectLeaders")
def leaders_of_all_partitions_elected(session, version):
    name, _ = session.topic(partitions=2)
    answer = session.quietly("ElectLeaders", version, {"TopicPartitions": None, "TimeoutMs": 5000})
    answer["ReplicaElectionResults"] = [found for found in answer["ReplicaElectionResults"] if found["Topic"] == name]
    session.transcript.append((f"ElectLeaders v{version}", answer))
    session.ask("ElectLeaders", version, {"TopicPartitions": None, "TimeoutMs": 0})


@scenario("AlterPartitionReassignments")
def reassignments_refused_and_of_nothing(session, version):
    name, _ = session.topic(partitions=2)
    missing = session.name("missing")
    # Taken back, nowhere, twice on one, on nobody, and where it is.
    for replicas in (None, [], [1, 1], [NOBODY], [1, NOBODY], [1]):
        to = lambda topic, *indexes: {"Name": topic, "Partitions": [{"PartitionIndex": at, "Replicas": replicas} for at in indexes]}
        for topics in ([to(name, 0, 1)], [to(name, 7, -1)], [to(missing, 0)], [to(name, 0), to(missing, 0)]):
            for more in ({}, {"AllowReplicationFactorChange": False}) if version >= 1 else ({},):
                session.ask("AlterPartitionReassignments", version, {"TimeoutMs": 5000, "Topics": topics} | more)
        for timeout_ms in (0, -1):
            session.ask("AlterPartitionReassignments", version, {"TimeoutMs": timeout_ms, "Topics": [to(name, 0), to(missing, 0)]})
    for timeout_ms in (5000, 0):
        session.ask("AlterPartitionReassignments", version, {"TimeoutMs": timeout_ms, "Topics": []})


@scenario("ListPartitionReassignments")
def reassignments_where_nothing_moves(session, version):
    name, _ = session.topic(partitions=2)
    wanted = lambda topic, *indexes: {"Name": topic, "PartitionIndexes": list(indexes)}
    for topics in (None, [], [wanted(name, 0, 1, 7)], [wanted(session.name("missing"), 0)], [wanted(name)]):
        session.ask("ListPartitionReassignments", version, {"TimeoutMs": 5000, "Topics": topics})


@scenario("DescribeQuorum")
def quorums_of_other_topics(session, version):
    wanted = lambda topic, *indexes: {"TopicName": topic, "Partitions": [{"PartitionIndex": at} for at in indexes]}
    missing, log = session.name("missing"), "__cluster_metadata"
    for topics in ([wanted(missing, 0)], [wanted(log, 1)], [wanted(log, 0, 0)], [wanted(log)], [wanted(log, 0), wanted(missing, 3)], []):
        session.ask("DescribeQuorum", version, {"Topics": topics})


@scenario("AddRaftVoter")
def voters_that_can_not_be_added(session, version):
    listeners = [{"Name": "CONTROLLER", "Host": "127.0.0.1", "Port": 9}]
    voter = {"VoterId": 7, "VoterDirectoryId": uuid.UUID(int=7), "Listeners": listeners, "TimeoutMs": 5000}
    for more in (
        {"ClusterId": WRONG_CLUSTER},
        {"ClusterId": ""},
        {"ClusterId": WRONG_CLUSTER, "VoterId": -1},
        {"ClusterId": None, "VoterId": -1},
        {"ClusterId": None, "VoterDirectoryId": uuid.UUID(int=0)},
        {"ClusterId": None, "Listeners": []},
    ):
        session.ask("AddRaftVoter", version, voter | more)


@scenario("RemoveRaftVoter")
def voters_that_can_not_be_removed(session, version):
    voter = {"VoterId": 7, "VoterDirectoryId": uuid.UUID(int=7)}
    for more in (
        {"ClusterId": WRONG_CLUSTER},
        {"ClusterId": None, "VoterId": -1},
        {"ClusterId": None, "VoterDirectoryId": uuid.UUID(int=0)},
    ):
        session.ask("RemoveRaftVoter", version, voter | more)


@scenario("UnregisterBroker")
def brokers_that_were_never_registered(session, version):
    for number in (NOBODY, -1):
        session.ask("UnregisterBroker", version, {"BrokerId": number})
