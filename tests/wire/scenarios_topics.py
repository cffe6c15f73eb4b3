"""Scenarios about topics, configurations and the cluster."""

import time
import uuid

from wire.registry import scenario

# Apache Kafka's broker learns of an alteration some time after its controller has answered.
PROPAGATION_SECONDS = 0.3


def topic(name, partitions=1, replication=1, **more):
    return {"Name": name, "NumPartitions": partitions, "ReplicationFactor": replication} | more


@scenario("Metadata")
def metadata_of_topics(session, version):
    name, topic_id = session.topic(partitions=2)
    create = {"AllowAutoTopicCreation": False} if version >= 4 else {}
    session.ask("Metadata", version, {"Topics": [{"Name": name}]} | create)
    if version >= 4:
        session.ask("Metadata", version, {"Topics": [{"Name": session.name("missing")}]} | create)
        session.ask("Metadata", version, {"Topics": [{"Name": "__transaction_state"}]} | create)
    if version >= 8:
        operations = {"IncludeTopicAuthorizedOperations": True, "IncludeClusterAuthorizedOperations": True}
        asked = {"Topics": [{"Name": name}, {"Name": session.name("missing")}, {"Name": "not/a/name"}]}
        session.ask("Metadata", version, asked | operations | create)
    session.ask("Metadata", version, {"Topics": [{"Name": "not/a/name"}, {"Name": ""}]} | create)
    if version >= 1:
        session.ask("Metadata", version, {"Topics": []} | create)
    if version >= 10:
        by_id = {"TopicId": topic_id, "Name": None}
        session.ask("Metadata", version, {"Topics": [by_id]} | create)
        session.ask("Metadata", version, {"Topics": [{"TopicId": uuid.UUID(int=77), "Name": None}]} | create)
        session.ask("Metadata", version, {"Topics": [by_id, by_id]} | create)
        mixed = [{"TopicId": topic_id, "Name": name}, {"TopicId": uuid.UUID(int=77), "Name": name}, {"Name": session.name("other")}]
        session.ask("Metadata", version, {"Topics": mixed} | create)
    session.ask("Metadata", version, {"Topics": [{"Name": name}, {"Name": "not/a/name"}] * 2} | create)


@scenario("Metadata")
def metadata_of_all_topics(session, version):
    name, _ = session.topic()
    answer = session.quietly("Metadata", version, {"Topics": None if version >= 1 else []})
    answer["Topics"] = [found for found in answer["Topics"] if found["Name"] == name]
    session.transcript.append((f"Metadata v{version}", answer))


@scenario("Metadata", since=9)
def metadata_of_names_as_long_as_a_string_may_be_and_longer(session, version):
    for length in (32_767, 32_768):
        session.ask("Metadata", version, {"Topics": [{"Name": "x" * length}], "AllowAutoTopicCreation": False})


@scenario("Metadata", since=4)
def metadata_creates_topics_when_asked(session, version):
    asked = {"Topics": [{"Name": session.name("auto")}], "AllowAutoTopicCreation": True}
    for _ in range(100):
        found = session.quietly("Metadata", version, asked)["Topics"][0]
        if found["ErrorCode"] == 0:
            break
        time.sleep(0.02)
    session.ask("Metadata", version, asked)
    session.topic("auto.dots")
    session.ask("Metadata", version, asked | {"Topics": [{"Name": session.name("auto_dots")}]})


@scenario("DescribeTopicPartitions")
def topics_described_page_by_page(session, version):
    names = [session.topic(stem, partitions=3)[0] for stem in ("a", "b")]
    every = {"Topics": [{"Name": name} for name in names]}
    session.ask("DescribeTopicPartitions", version, every | {"ResponsePartitionLimit": 100})
    first = session.ask("DescribeTopicPartitions", version, every | {"ResponsePartitionLimit": 2})
    session.ask("DescribeTopicPartitions", version, every | {"ResponsePartitionLimit": 100, "Cursor": first.get("NextCursor")})
    for name in (session.name("no"), "__transaction_state"):
        session.ask("DescribeTopicPartitions", version, {"Topics": [{"Name": name}], "ResponsePartitionLimit": 9})
    session.ask("DescribeTopicPartitions", version, every | {"ResponsePartitionLimit": 0})
    # Cursors that no answer gave: of a topic that is not asked for, below the first partition, past the last, and of no topic.
    for name, partition in (("none", 0), (names[0], -1), (names[0], 9), ("", 0)):
        cursor = {"TopicName": name, "PartitionIndex": partition}
        session.ask("DescribeTopicPartitions", version, every | {"ResponsePartitionLimit": 9, "Cursor": cursor})


@scenario("DescribeCluster")
def the_cluster(session, version):
    for operations in (False, True):
        session.ask("DescribeCluster", version, {"IncludeClusterAuthorizedOperations": operations})
    if version >= 1:
        for kind in (1, 2, 3, 0, -1):
            session.ask("DescribeCluster", version, {"EndpointType": kind, "IncludeClusterAuthorizedOperations": True})
    if version >= 2:
        session.ask("DescribeCluster", version, {"IncludeFencedBrokers": True})


@scenario("CreateTopics")
def topics_created_and_refused(session, version):
    name = session.name("created")
    ask = lambda *topics, **more: session.ask("CreateTopics", version, {"Topics": list(topics), "timeoutMs": 5000} | more)
    ask(topic(name, 2), validateOnly=True)
    ask(topic(name, 2))
    ask(topic(name, 2))
    ask(topic(session.name("twice")), topic(session.name("twice")))
    for bad in ("", ".", "..", "a b", "x" * 250, "a/b", "ä"):
        ask(topic(bad))
    ask(topic(session.name("zero"), 0))
    ask(topic(session.name("minus"), -2))
    ask(topic(session.name("copies"), 1, 3))
    ask(topic(session.name("copies"), 1, 0))
    ask(topic(session.name("neither"), 0, 0))
    ask(topic(session.name("neither"), -2, -2))
    if version >= 4:
        ask(topic(session.name("defaults"), -1, -1))
    ask(topic("__cluster_metadata"))
    ask(topic(session.name("dots") + ".x"))
    ask(topic(session.name("dots") + "_x"))


@scenario("CreateTopics")
def topics_that_there_is_no_time_to_create(session, version):
    name = session.name("late")
    for timeout_ms in (0, -1):
        for topics in (
            [topic(name), topic(session.name("zero"), 0), topic("a/b")],
            [topic(name), topic("twice"), topic("twice")],
            [topic("twice"), topic("twice")],  # the controller is not asked for these
            [topic("__cluster_metadata")],
            [topic("__cluster_metadata"), topic(name)],
            [],
        ):
            for more in ({}, {"validateOnly": True}):
                session.ask("CreateTopics", version, {"Topics": topics, "timeoutMs": timeout_ms} | more)
    session.ask("Metadata", 12, {"Topics": [{"Name": name}], "AllowAutoTopicCreation": False})


@scenario("CreateTopics")
def more_partitions_than_one_request_may_ask_for(session, version):
    few, many = topic(session.name("few"), 1), topic(session.name("many"), 10_001)
    halves = [topic(session.name("half"), 5_000), topic(session.name("other-half"), 5_001)]
    for topics in ([many], [few, many], [topic("a/b", 10_001), few], [many, many], halves, halves + [few, few]):
        for more in ({}, {"validateOnly": True}):
            session.ask("CreateTopics", version, {"Topics": topics, "timeoutMs": 5000} | more)
    named = [{"Name": each["Name"]} for each in [few, many, *halves]]
    session.ask("Metadata", 12, {"Topics": named, "AllowAutoTopicCreation": False})


@scenario("CreateTopics")
def topics_with_configurations_and_assignments(session, version):
    ask = lambda *topics: session.ask("CreateTopics", version, {"Topics": list(topics), "timeoutMs": 5000})
    for key, value in [
        ("retention.ms", "1000"),
        ("retention.ms", "soon"),
        ("retention.ms", None),
        ("no.such.config", "1"),
        ("cleanup.policy", "shred"),
        ("min.insync.replicas", "0"),
        ("max.message.bytes", "-1"),
        ("compression.type", "brotli"),
        ("message.timestamp.type", "Never"),
    ]:
        name = session.name(f"{key}-{value}".lower())
        ask(topic(name, Configs=[{"Name": key, "Value": value}]))
    soon = [{"Name": "retention.ms", "Value": "soon"}]
    ask(topic(session.name("copies"), 1, 3, Configs=soon))
    ask(topic(session.name("none"), 0, 1, Configs=soon))
    unset = [{"Name": "retention.ms", "Value": None}]
    twice = [{"PartitionIndex": 0, "BrokerIds": [1]}] * 2
    there, _ = session.topic("there")
    for name in ("a/b", there):
        ask(topic(name, Configs=unset))
        ask(topic(name, -1, -1, Assignments=twice))
    ask(topic(session.name("none"), 0, 1, Configs=unset))
    ask(topic(session.name("again"), -1, -1, Assignments=twice))
    ask(topic(session.name("again"), -1, -1, Assignments=twice, Configs=soon))
    ask(topic(session.name("again"), 1, -1, Assignments=twice))
    assigned = [{"PartitionIndex": 0, "BrokerIds": [7]}]
    ask(topic(session.name("assigned"), -1, -1, Assignments=assigned))
    ask(topic(session.name("both"), 1, 1, Assignments=assigned))
    ask(topic(session.name("hole"), -1, -1, Assignments=[{"PartitionIndex": 1, "BrokerIds": [1]}]))


@scenario("DeleteTopics")
def topics_deleted(session, version):
    name, topic_id = session.topic()

    def ask(*targets):
        body = {"Topics": list(targets)} if version >= 6 else {"TopicNames": [target["Name"] for target in targets]}
        session.ask("DeleteTopics", version, body | {"TimeoutMs": 5000})

    ask({"Name": session.name("missing")})
    if version >= 6:
        ask({"Name": None, "TopicId": uuid.UUID(int=77)})
        ask({"Name": name, "TopicId": topic_id})
        # Named twice in either way, or in both: nothing is deleted.
        ask({"Name": None, "TopicId": topic_id}, {"Name": None, "TopicId": topic_id})
        ask({"Name": name}, {"Name": name})
        ask({"Name": name}, {"Name": None, "TopicId": topic_id})
        ask({"Name": None, "TopicId": uuid.UUID(int=0)})
        ask({"Name": None, "TopicId": topic_id})
    else:
        ask({"Name": name}, {"Name": name})
        ask({"Name": name})
    session.ask("Metadata", 12, {"Topics": [{"Name": name}], "AllowAutoTopicCreation": False})


@scenario("DeleteTopics")
def topics_that_there_is_no_time_to_delete(session, version):
    name, topic_id = session.topic()
    missing = {"Name": session.name("missing")}
    wanted = [[{"Name": name}], [{"Name": name}, missing, missing], [missing, missing], []]
    if version >= 6:
        by_id = {"Name": None, "TopicId": topic_id}
        neither = {"Name": None, "TopicId": uuid.UUID(int=0)}
        wanted += [[by_id], [by_id, {"Name": name}], [by_id, by_id], [neither], [neither, {"Name": name}]]
    for targets in wanted:
        for timeout_ms in (0, -1):
            body = {"Topics": targets} if version >= 6 else {"TopicNames": [target["Name"] for target in targets]}
            session.ask("DeleteTopics", version, body | {"TimeoutMs": timeout_ms})
    session.ask("Metadata", 12, {"Topics": [{"Name": name}], "AllowAutoTopicCreation": False})


@scenario("CreatePartitions")
def partitions_that_there_is_no_time_to_add(session, version):
    name, _ = session.topic()
    more = {"Name": name, "Count": 2, "Assignments": None}
    missing = more | {"Name": session.name("missing")}
    for wanted in ([more], [more, missing, missing], [missing, missing], []):
        for timeout_ms in (0, -1):
            body = {"Topics": wanted, "TimeoutMs": timeout_ms, "ValidateOnly": timeout_ms < 0}
            session.ask("CreatePartitions", version, body)
    session.ask("Metadata", 12, {"Topics": [{"Name": name}], "AllowAutoTopicCreation": False})


@scenario("CreatePartitions")
def partitions_added(session, version):
    name, _ = session.topic(partitions=2)

    def ask(count, name=name, assignments=None, validate=False):
        wanted = [{"Name": name, "Count": count, "Assignments": assignments}]
        session.ask("CreatePartitions", version, {"Topics": wanted, "TimeoutMs": 5000, "ValidateOnly": validate})

    for count in (2, 1, 0, -1):
        ask(count)
    ask(3, validate=True)
    ask(3)
    ask(3, name=session.name("missing"))
    ask(4, assignments=[{"BrokerIds": [7]}])
    ask(5, assignments=[{"BrokerIds": [1]}])
    session.ask("Metadata", 12, {"Topics": [{"Name": name}], "AllowAutoTopicCreation": False})


@scenario("DescribeConfigs")
def configurations_described(session, version):
    name, _ = session.topic(retention_ms="7777")
    wanted = {"ResourceType": 2, "ResourceName": name, "ConfigurationKeys": ["retention.ms", "max.message.bytes"]}
    ask = lambda *resources: session.ask("DescribeConfigs", version, {"Resources": list(resources)})
    ask(wanted)
    ask(wanted | {"ConfigurationKeys": ["no.such.config"]})
    ask(wanted | {"ConfigurationKeys": []})
    ask(wanted | {"ResourceName": session.name("missing")})
    ask(wanted | {"ResourceName": "not/a/name"})
    ask(wanted, wanted)
    ask({"ResourceType": 4, "ResourceName": "77", "ConfigurationKeys": ["log.dirs"]})
    ask({"ResourceType": 4, "ResourceName": "one", "ConfigurationKeys": ["log.dirs"]})
    for unknown in (99, 0, 1, -1):
        ask({"ResourceType": unknown, "ResourceName": "x", "ConfigurationKeys": None})
        ask(wanted, {"ResourceType": unknown, "ResourceName": "x", "ConfigurationKeys": None})


@scenario("DescribeConfigs")
def every_topic_configuration(session, version):
    name, _ = session.topic(max_message_bytes="7777", retention_bytes="7777777")
    wanted = {"ResourceType": 2, "ResourceName": name, "ConfigurationKeys": None}
    more = {"IncludeSynonyms": True, "IncludeDocumentation": True}
    answer = session.quietly("DescribeConfigs", version, {"Resources": [wanted]} | more)
    configs = {config["Name"]: config for config in answer["Results"][0]["Configs"]}
    for config in configs.values():
        # By another key than those that order lists: the first synonym is the one in effect.
        config["Synonyms"] = [{"Synonym": one.pop("Name")} | one for one in config["Synonyms"]]
    session.transcript.append((f"DescribeConfigs v{version} {name}", configs))


@scenario("IncrementalAlterConfigs")
def configurations_altered_one_by_one(session, version):
    name, _ = session.topic()

    def ask(*changes, name=name, validate=False, kind=2):
        configs = [{"Name": key, "ConfigOperation": operation, "Value": value} for key, operation, value in changes]
        resource = {"ResourceType": kind, "ResourceName": name, "Configs": configs}
        session.ask("IncrementalAlterConfigs", version, {"Resources": [resource], "ValidateOnly": validate})
        time.sleep(PROPAGATION_SECONDS)
        wanted = {"ResourceType": 2, "ResourceName": name, "ConfigurationKeys": ["retention.ms", "cleanup.policy"]}
        session.ask("DescribeConfigs", 4, {"Resources": [wanted]})

    ask(("retention.ms", 0, "5"))
    ask(("retention.ms", 1, None))
    ask(("retention.ms", 0, "6"), validate=True)
    ask(("retention.ms", 0, "6"), ("retention.ms", 0, "7"))
    ask(("retention.ms", 0, "often"))
    ask(("retention.ms", 2, "7"))
    ask(("retention.ms", 9, "7"))
    ask(("cleanup.policy", 3, "delete"))
    ask(("cleanup.policy", 2, "delete"))
    ask(("no.such.config", 0, "7"))
    ask(("retention.ms", 0, None))
    for missing in (session.name("missing"), "", "not/a/name"):
        ask(("retention.ms", 0, "5"), name=missing)
        ask(("retention.ms", 0, "often"), name=missing)
        ask(("retention.ms", 2, "7"), name=missing)
    # What is wrong with the request comes before there is no such topic.
    ask(("retention.ms", 0, None), name=session.name("missing"))
    ask(("retention.ms", 0, "6"), ("retention.ms", 0, "7"), name=session.name("missing"))
    for broker in ("1", ""):
        ask(("log.retention.ms", 2, "7"), name=broker, kind=4)
    setting = [{"Name": "retention.ms", "ConfigOperation": 0, "Value": "8"}]
    twice = [{"ResourceType": 2, "ResourceName": name, "Configs": setting}] * 2
    session.ask("IncrementalAlterConfigs", version, {"Resources": twice, "ValidateOnly": False})
    ask()


# Pairs of partition and broker, as replicas are named whose replication is throttled: of 32,767 characters, and of more.
FITS, TOO_LONG = (",".join(f"{10_000 + index}:1" for index in range(count)) for count in (4096, 4097))
THROTTLED = "leader.replication.throttled.replicas"


@scenario("IncrementalAlterConfigs", since=1)
def long_configurations_altered(session, version):
    name, _ = session.topic()
    missing = session.name("missing")
    for kind, where, key, operation, value in [
        (2, name, THROTTLED, 0, FITS),
        (2, name, THROTTLED, 0, TOO_LONG),
        (2, name, THROTTLED, 2, "7:1"),
        (2, name, THROTTLED, 3, "10000:1"),
        (2, missing, THROTTLED, 0, TOO_LONG),
        (2, "not/a/name", THROTTLED, 0, TOO_LONG),
        (2, "", THROTTLED, 0, TOO_LONG),
        (2, name, "no.such.config", 0, TOO_LONG),
        (4, "1", "of.a.plug.in", 0, TOO_LONG),
        (4, "", "of.a.plug.in", 0, TOO_LONG),
    ]:
        configs = [{"Name": key, "ConfigOperation": operation, "Value": value}]
        resource = {"ResourceType": kind, "ResourceName": where, "Configs": configs}
        session.ask("IncrementalAlterConfigs", version, {"Resources": [resource], "ValidateOnly": False})


@scenario("AlterConfigs", since=2)
def long_configurations_replaced(session, version):
    name, _ = session.topic()
    for where, value in ((name, FITS), (name, TOO_LONG), (session.name("missing"), TOO_LONG)):
        resource = {"ResourceType": 2, "ResourceName": where, "Configs": [{"Name": THROTTLED, "Value": value}]}
        session.ask("AlterConfigs", version, {"Resources": [resource], "ValidateOnly": False})


@scenario("CreateTopics", since=5)
def topics_created_with_long_configurations(session, version):
    for name, value in (("a/b", TOO_LONG), (session.name("long"), TOO_LONG)):
        configs = [{"Name": THROTTLED, "Value": value}]
        session.ask("CreateTopics", version, {"Topics": [topic(name, Configs=configs)], "timeoutMs": 5000})


@scenario("IncrementalAlterConfigs")
def replicas_in_sync_altered_for_brokers(session, version):
    for broker in ("1", ""):
        for operation, value in ((0, "1"), (0, "0"), (0, "many"), (0, None), (1, None), (2, "1")):
            configs = [{"Name": "min.insync.replicas", "ConfigOperation": operation, "Value": value}]
            resource = {"ResourceType": 4, "ResourceName": broker, "Configs": configs}
            session.ask("IncrementalAlterConfigs", version, {"Resources": [resource], "ValidateOnly": True})


@scenario("AlterConfigs")
def replicas_in_sync_replaced_for_brokers(session, version):
    for broker in ("1", ""):
        for value in ("1", "0"):
            configs = [{"Name": "min.insync.replicas", "Value": value}]
            resource = {"ResourceType": 4, "ResourceName": broker, "Configs": configs}
            session.ask("AlterConfigs", version, {"Resources": [resource], "ValidateOnly": True})


@scenario("AlterConfigs")
def configurations_replaced(session, version):
    name, _ = session.topic(retention_ms="7")
    for configs in ([("segment.ms", "5000")], [("segment.ms", "x")], [("no.such.config", "1")], []):
        pairs = [{"Name": key, "Value": value} for key, value in configs]
        resource = {"ResourceType": 2, "ResourceName": name, "Configs": pairs}
        session.ask("AlterConfigs", version, {"Resources": [resource], "ValidateOnly": False})
        time.sleep(PROPAGATION_SECONDS)
        wanted = {"ResourceType": 2, "ResourceName": name, "ConfigurationKeys": ["retention.ms", "segment.ms"]}
        session.ask("DescribeConfigs", 4, {"Resources": [wanted]})
    for missing in (session.name("missing"), "", "not/a/name"):
        set_to = lambda value: {"Name": "segment.ms", "Value": value}
        for configs in ([set_to("5000")], [set_to(None)], [set_to("5000"), set_to("6000")]):
            resource = {"ResourceType": 2, "ResourceName": missing, "Configs": configs}
            session.ask("AlterConfigs", version, {"Resources": [resource], "ValidateOnly": False})


@scenario("DescribeLogDirs")
def log_directories(session, version):
    name, _ = session.topic(partitions=2)
    session.fill(name, 3)
    session.ask("DescribeLogDirs", version, {"Topics": [{"Topic": name, "Partitions": [0, 1, 9]}]})
    session.ask("DescribeLogDirs", version, {"Topics": []})
    session.ask("DescribeLogDirs", version, {"Topics": [{"Topic": name, "Partitions": []}]})
    session.ask("DescribeLogDirs", version, {"Topics": [{"Topic": name, "Partitions": [at]} for at in (0, 1)]})
