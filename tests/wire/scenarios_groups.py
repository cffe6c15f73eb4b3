"""Scenarios about consumer groups and committed offsets (the classic protocol)."""

from wire.registry import scenario

PROTOCOL = [{"Name": "range", "Metadata": b"\0\1"}]


def join(session, version, group, member="", protocols=None, instance=None, **more):
    """Joins; from version 4 on the first answer only gives a member id."""
    body = {"GroupId": group, "SessionTimeoutMs": 10_000, "MemberId": member, "ProtocolType": "consumer"}
    body |= {"Protocols": protocols or PROTOCOL} | more
    if version >= 1:
        body.setdefault("RebalanceTimeoutMs", 10_000)
    if version >= 5:
        body["GroupInstanceId"] = instance
    return session.ask("JoinGroup", version, body)


def member_of(session, group, version=5):
    """A group of one that is stable; returns its member and generation."""
    first = join(session, version, group)
    member = first["MemberId"]
    if first["ErrorCode"] == 79:
        second = join(session, version, group, member)
        generation = second["GenerationId"]
    else:
        generation = first["GenerationId"]
    assigned = [{"MemberId": member, "Assignment": b"\0\0"}]
    session.ask("SyncGroup", 3, {"GroupId": group, "GenerationId": generation, "MemberId": member, "Assignments": assigned})
    return member, generation


@scenario("FindCoordinator")
def coordinators(session, version):
    group = session.name("group")
    session.coordinator(group)
    for key, kind in [(group, 0), ("", 0), (group, 7)]:
        if version >= 4:
            session.ask("FindCoordinator", version, {"KeyType": kind, "CoordinatorKeys": [key, key]})
        else:
            session.ask("FindCoordinator", version, {"Key": key} | ({"KeyType": kind} if version >= 1 else {}))


@scenario("JoinGroup")
def a_group_of_one(session, version):
    group = session.name("group")
    session.coordinator(group)
    first = join(session, version, group)
    member = first["MemberId"]
    if first["ErrorCode"] == 79:
        join(session, version, group, member)
    join(session, version, group, member)
    join(session, version, group, "nobody")
    join(session, version, group, member, [{"Name": "other", "Metadata": b""}])
    join(session, version, group, member, ProtocolType="connect")


@scenario("JoinGroup")
def joins_that_are_refused(session, version):
    group = session.name("group")
    session.coordinator(group)
    join(session, version, "")
    join(session, version, group, SessionTimeoutMs=1)
    join(session, version, group, SessionTimeoutMs=100_000_000)
    join(session, version, group, ProtocolType="")
    join(session, version, group, "nobody")


@scenario("JoinGroup", since=9)
def a_rebalance_timeout_below_zero(session, version):
    group = session.name("group")
    session.coordinator(group)
    first = join(session, 3, group, RebalanceTimeoutMs=2000)
    body = {"GroupId": group, "GenerationId": first["GenerationId"], "MemberId": first["MemberId"]}
    session.ask("SyncGroup", 3, body | {"Assignments": []})
    # The group waits as long as its most patient member does.
    given = join(session, version, group, RebalanceTimeoutMs=-1)["MemberId"]
    join(session, version, group, given, RebalanceTimeoutMs=-1)
    session.ask("Heartbeat", 3, body)


@scenario("JoinGroup", since=5)
def static_members(session, version):
    group = session.name("group")
    session.coordinator(group)
    first = join(session, version, group, instance="static")
    generation = first["GenerationId"]
    assigned = [{"MemberId": first["MemberId"], "Assignment": b"\1"}]
    body = {"GroupId": group, "GenerationId": generation, "MemberId": first["MemberId"], "GroupInstanceId": "static"}
    session.ask("SyncGroup", 3, body | {"Assignments": assigned})
    session.ask("Heartbeat", 3, body)
    again = join(session, version, group, instance="static")
    session.ask("Heartbeat", 3, body)  # the member that was replaced
    session.ask("Heartbeat", 3, body | {"MemberId": again["MemberId"], "GenerationId": again["GenerationId"]})


@scenario("SyncGroup")
def assignments(session, version):
    group = session.name("group")
    session.coordinator(group)
    first = join(session, 4, group)
    member = first["MemberId"]
    generation = join(session, 4, group, member)["GenerationId"]
    body = {"GroupId": group, "GenerationId": generation, "MemberId": member, "Assignments": []}
    typed = {"ProtocolType": "consumer", "ProtocolName": "range"} if version >= 5 else {}
    session.ask("SyncGroup", version, body | typed | {"GenerationId": generation + 1})
    session.ask("SyncGroup", version, body | typed | {"MemberId": "nobody"})
    session.ask("SyncGroup", version, body | typed | {"GroupId": session.name("missing")})
    session.ask("SyncGroup", version, body | typed | {"Assignments": [{"MemberId": member, "Assignment": b"\7"}]})
    session.ask("SyncGroup", version, body | typed)
    if version >= 5:
        session.ask("SyncGroup", version, body | {"ProtocolType": "consumer", "ProtocolName": "other"})
        for missing in typed:
            session.ask("SyncGroup", version, body | typed | {missing: None})
            session.ask("SyncGroup", version, body | typed | {missing: None, "MemberId": "nobody"})


@scenario("Heartbeat")
def heartbeats(session, version):
    group = session.name("group")
    session.coordinator(group)
    member, generation = member_of(session, group)
    for who, when, where in [
        (member, generation, group),
        (member, generation + 1, group),
        ("nobody", generation, group),
        (member, generation, session.name("missing")),
        (member, generation, ""),
    ]:
        session.ask("Heartbeat", version, {"GroupId": where, "GenerationId": when, "MemberId": who})


@scenario("LeaveGroup")
def members_leave(session, version):
    group = session.name("group")
    session.coordinator(group)
    member, _ = member_of(session, group)

    def leave(who, where=group):
        named = {"Members": [{"MemberId": who, "GroupInstanceId": None}]} if version >= 3 else {"MemberId": who}
        session.ask("LeaveGroup", version, {"GroupId": where} | named)

    leave("nobody")
    leave(member, session.name("missing"))
    leave(member)
    leave(member)


def commit_body(session, version, group, topic, offset, member="", generation=-1, metadata="m", partition=0):
    name, topic_id = topic
    entry = {"PartitionIndex": partition, "CommittedOffset": offset, "CommittedMetadata": metadata}
    named = {"TopicId": topic_id} if version >= 10 else {"Name": name}
    body = {"GroupId": group, "GenerationIdOrMemberEpoch": generation, "MemberId": member}
    return body | {"Topics": [named | {"Partitions": [entry]}]}


def fetch_offsets_body(version, group, topic, partitions=(0,)):
    name, topic_id = topic if topic else (None, None)
    named = {"TopicId": topic_id} if version >= 10 else {"Name": name}
    topics = [named | {"PartitionIndexes": list(partitions)}] if topic else None
    if version >= 8:
        return {"Groups": [{"GroupId": group, "Topics": topics}]}
    return {"GroupId": group, "Topics": topics}


@scenario("OffsetCommit")
def offsets_committed_without_a_member(session, version):
    group, topic = session.name("group"), session.topic(partitions=2)
    session.coordinator(group)
    session.ask("OffsetCommit", version, commit_body(session, version, group, topic, 5))
    session.ask("OffsetCommit", version, commit_body(session, version, group, topic, 3, metadata=None))
    session.ask("OffsetCommit", version, commit_body(session, version, group, topic, 3, metadata="x" * 5000))
    session.ask("OffsetCommit", version, commit_body(session, version, group, topic, -5))
    session.ask("OffsetCommit", version, commit_body(session, version, group, topic, 3, partition=9))
    session.ask("OffsetCommit", version, commit_body(session, version, "", topic, 3))
    session.ask("OffsetCommit", version, commit_body(session, version, group, topic, 3, "nobody", 4))
    session.ask("OffsetFetch", 7, fetch_offsets_body(7, group, topic, (0, 1, 9)))


@scenario("OffsetCommit")
def offsets_committed_by_members(session, version):
    group, topic = session.name("group"), session.topic()
    session.coordinator(group)
    member, generation = member_of(session, group)
    for who, when in [(member, generation), (member, generation + 1), ("nobody", generation), ("", -1)]:
        session.ask("OffsetCommit", version, commit_body(session, version, group, topic, 5, who, when))


@scenario("OffsetFetch")
def offsets_read_back(session, version):
    group, topic = session.name("group"), session.topic(partitions=2)
    session.coordinator(group)
    session.ask("OffsetFetch", version, fetch_offsets_body(version, group, topic, (0, 1)))
    session.quietly("OffsetCommit", 7, commit_body(session, 7, group, topic, 42))
    session.ask("OffsetFetch", version, fetch_offsets_body(version, group, topic, (0, 1, 9)))
    if version >= 2:
        session.ask("OffsetFetch", version, fetch_offsets_body(version, group, None))
    session.ask("OffsetFetch", version, fetch_offsets_body(version, "", topic))
    session.ask("OffsetFetch", version, fetch_offsets_body(version, group, topic, (0, 0)))
    if version >= 8:
        twice = fetch_offsets_body(version, group, topic)["Groups"] * 2
        session.ask("OffsetFetch", version, {"Groups": twice})


@scenario("OffsetDelete")
def offsets_deleted(session, version):
    group, topic = session.name("group"), session.topic(partitions=2)
    session.coordinator(group)
    session.quietly("OffsetCommit", 7, commit_body(session, 7, group, topic, 42))
    for where, name, partition in [(group, topic[0], 1), (group, topic[0], 0), (session.name("no"), topic[0], 0)]:
        wanted = [{"Name": name, "Partitions": [{"PartitionIndex": partition}]}]
        session.ask("OffsetDelete", version, {"GroupId": where, "Topics": wanted})
    session.ask("OffsetFetch", 7, fetch_offsets_body(7, group, topic, (0, 1)))


@scenario("OffsetDelete")
def offsets_deleted_of_a_topic_named_twice(session, version):
    group, topic = session.name("group"), session.topic(partitions=2)
    session.coordinator(group)
    for indexes in ((0, 9), (0, 1)):
        for index in (0, 1):
            session.quietly("OffsetCommit", 7, commit_body(session, 7, group, topic, 42, partition=index))
        named = [{"Name": topic[0], "Partitions": [{"PartitionIndex": index}]} for index in indexes]
        session.ask("OffsetDelete", version, {"GroupId": group, "Topics": named})
        session.ask("OffsetFetch", 7, fetch_offsets_body(7, group, topic, (0, 1)))


@scenario("DescribeGroups", since=3)
def operations_on_groups(session, version):
    group, missing = session.name("group"), session.name("missing")
    for name in (group, missing):
        session.coordinator(name)
    member_of(session, group)
    session.ask("DescribeGroups", version, {"Groups": [group, missing], "IncludeAuthorizedOperations": True})


@scenario("DescribeGroups")
def groups_described(session, version):
    group = session.name("group")
    session.coordinator(group)
    session.ask("DescribeGroups", version, {"Groups": [group]})
    member_of(session, group)
    session.ask("DescribeGroups", version, {"Groups": [group, session.name("missing"), ""]})
    session.ask("DescribeGroups", version, {"Groups": [group, group]})


@scenario("ListGroups")
def groups_listed(session, version):
    group = session.name("group")
    session.coordinator(group)
    member_of(session, group)
    filters = [{}]
    if version >= 4:
        filters += [{"StatesFilter": ["Stable"]}, {"StatesFilter": ["Dead"]}, {"StatesFilter": ["no such"]}]
    if version >= 5:
        filters += [{"TypesFilter": ["classic"]}, {"TypesFilter": ["consumer"]}, {"TypesFilter": ["no such"]}]
    for wanted in filters:
        answer = session.quietly("ListGroups", version, wanted)
        answer["Groups"] = [found for found in answer["Groups"] if found["GroupId"] == group]
        session.transcript.append((f"ListGroups v{version} {wanted}", answer))


@scenario("DeleteGroups")
def groups_deleted(session, version):
    busy, idle, topic = session.name("busy"), session.name("idle"), session.topic()
    session.coordinator(busy)
    session.coordinator(idle)
    member_of(session, busy)
    session.quietly("OffsetCommit", 7, commit_body(session, 7, idle, topic, 42))
    for group in (busy, idle, idle, session.name("missing"), ""):
        session.ask("DeleteGroups", version, {"GroupsNames": [group]})
    session.ask("OffsetFetch", 7, fetch_offsets_body(7, idle, topic))
