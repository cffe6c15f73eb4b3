"""Differences from Apache Kafka that are meant, each with its reason. Anything else that differs is a bug here."""

import re
from typing import NamedTuple


class Meant(NamedTuple):
    """A difference: regular expressions over the whole of scenario, path of the field, and both values; and its reason."""

    scenario: str
    field: str
    ours: str
    theirs: str
    why: str


DESCRIBED = "every_topic_configuration|configurations_.*|topics_.*"
KEPT = "the history of a topic is kept until somebody says otherwise"
FRESH = "sealing decides how fresh the archive is, and its number of objects"
PRECISE = "Apache Kafka fails with UNKNOWN_SERVER_ERROR; we say what is wrong"

EXPECTED = [
    Meant(DESCRIBED, r".*\.(archive\.(fetch\.compression|flush\.timestamp)|write\.caching)", ".*", "absent", "settings of our own"),
    Meant(DESCRIBED, r".*\.retention\.ms\.Value", "-1", "604800000", KEPT),
    Meant(DESCRIBED, r".*\.segment\.ms\.Value", "3600000", "604800000", FRESH),
    Meant(DESCRIBED, r".*\.segment\.bytes\.(Synonyms\[0\]\.)?Value", "268435456", "1073741824", FRESH),
    Meant(
        DESCRIBED, r".*\.local\.retention\.ms\.(Synonyms\[0\]\.)?Value", "86400000", "-2",
        "local copies go when the archive has them",
    ),
    Meant(
        DESCRIBED, r".*\.local\.retention\.bytes\.(Synonyms\[0\]\.)?Value", "-1", "-2",
        "local copies go by age, not by size",
    ),
    Meant(DESCRIBED, r".*\.remote\.storage\.enable\.Value", "true", "false", "every topic is archived"),
    Meant(
        DESCRIBED, r".*\.min\.insync\.replicas\.ConfigSource", "5", "3",
        "Apache Kafka sets it when it formats a cluster, for eligible leader replicas",
    ),
    Meant(
        DESCRIBED, r".*\.min\.insync\.replicas\.Synonyms",
        r"\[\{[^{]*'Source': 5\}\]", r"\[\{[^{]*'Source': 3\}, \{[^{]*'Source': 5\}\]",
        "as its source",
    ),
    Meant(
        DESCRIBED, r".*\.(flush|retention|segment|segment\.jitter)\.ms\.Synonyms",
        r"\[\{'Synonym': 'log\.[^{]*'Source': 5\}\]", r"\[\]",
        "Apache Kafka's brokers have this default under the name of another unit, or of none",
    ),
    Meant("damaged_batches", r"Produce .*\.ErrorCode", "76|87", "-1", PRECISE),
    Meant("configurations_altered_one_by_one", r"IncrementalAlterConfigs .*\.ErrorCode", "42", "-1", PRECISE),
    Meant(
        "offsets_by_time_and_special_values", r"ListOffsets v11\..*\.(Offset|LeaderEpoch)", "0", "-1",
        "every topic is archived, so the first offset that waits for its upload is known",
    ),
    Meant(
        "offsets_deleted_of_a_topic_named_twice", r"OffsetDelete v0\.Topics",
        r"\[\{[^{]*\{'PartitionIndex': 0, 'ErrorCode': 0\}, \{'PartitionIndex': 1, 'ErrorCode': 0\}\]\}\]",
        r"(.*'Name'){2}.*",
        "Apache Kafka tells of the topic as often as it is named; we once, so that the answer is no larger than the request",
    ),
    Meant(
        "frames_that_are_no_request", r"negative count\.(Connection|ErrorCode)", "closed|absent", "answered|None",
        "Apache Kafka takes any negative count for null; no client sends one below -1",
    ),
]  # fmt: skip

SEEN = set()


def is_expected(scenario, path, ours, theirs):
    """Whether a difference is one of those above."""
    for meant in EXPECTED:
        pairs = zip(meant[:4], (scenario, path, str(ours), str(theirs)))
        if all(re.fullmatch(pattern, text, re.DOTALL) for pattern, text in pairs):
            SEEN.add(meant)
            return True
    return False
