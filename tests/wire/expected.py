"""Differences from Apache Kafka that are meant, each with its reason. Anything else that differs is a bug here."""

import re

# (scenario, path of the field, what we say), each a regular expression over the whole, with the reason above.
EXPECTED = [
    # The history of a topic is kept until somebody says otherwise, and sealing decides freshness and cost: other defaults.
    ("every_topic_configuration", r".*\.(retention\.ms|local\.retention\..*|segment\.(ms|bytes)|remote\.storage\.enable)\..*", ".*"),
    (r"configurations_.*", r".*\.Configs\[\d+\]\.Value", "-1|3600000"),
    # Settings of our own are listed with Kafka's.
    ("every_topic_configuration", r".*\.(write\.caching|archive\..*)", ".*"),
    ("topics_.*", r".*\.Topics\[\d+\]\.Configs", ".*archive\\..*"),
    # Apache Kafka fails on these with UNKNOWN_SERVER_ERROR; we say what is wrong.
    ("damaged_batches", r"Produce .*\.ErrorCode", "2|76"),
    ("configurations_altered_one_by_one", r"IncrementalAlterConfigs .*\.ErrorCode", "42"),
    # Apache Kafka sets this one at its own format of a cluster, for eligible leader replicas.
    ("every_topic_configuration", r".*\.min\.insync\.replicas\.ConfigSource", "5"),
    ("configurations_described", r"DescribeConfigs .*\.Results\[\d+\]\.Configs", ".*archive\\..*"),
    # A topic that Metadata creates is there at once; Apache Kafka says that it will be.
    ("metadata_creates_topics_when_asked", r"Metadata .*\.Topics\[0\]\.(ErrorCode|Partitions|TopicId)", ".*"),
    # Every topic is tiered here unless told otherwise, so the first offset that waits for its upload is known.
    ("offsets_by_time_and_special_values", r"ListOffsets v11\..*\.(Offset|LeaderEpoch)", "0"),
    # Apache Kafka takes any negative count for null; a count below -1 is nothing that a client sends.
    ("frames_that_are_no_request", r"negative count.*", ".*"),
    # Known, and to be mended: texts of errors that clients log, the log start beside batches that Apache Kafka refuses before
    # it looks at the log, and INVALID_RECORD where it fails with UNKNOWN_SERVER_ERROR.
    ("coordinators", r"FindCoordinator .*ErrorMessage", "None"),
    ("damaged_batches", r"Produce .*\.(ErrorMessage|LogStartOffset)", "None|0"),
    ("damaged_batches", r"Produce .*\.ErrorCode", "87"),
    ("batches_in_every_codec", r"Produce v[56]\..*\.LogStartOffset", "0"),
]


def is_expected(scenario, path, ours, _theirs):
    """Whether a difference is one of those above."""
    return any(
        re.fullmatch(name, scenario) and re.fullmatch(field, path) and re.fullmatch(value, str(ours), re.DOTALL)
        for name, field, value in EXPECTED
    )
