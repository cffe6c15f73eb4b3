"""Differences from Apache Kafka that are meant, each with its reason. Anything else that differs is a bug here."""

import re

# (scenario, path of the field, what we say), each a regular expression, and why.
EXPECTED = [
    # The history of a topic is kept until somebody says otherwise: that is the product.
    ("every_topic_configuration", r"\.(retention\.ms|local\.retention\..*|segment\.(ms|bytes)|remote\.storage\.enable)\..*", ""),
    # Topic settings of our own.
    ("every_topic_configuration", r"\.write\.caching", ""),
]


def is_expected(scenario, path, ours, _theirs):
    """Whether a difference is one of those above."""
    return any(
        re.fullmatch(name, scenario) and re.fullmatch(field, path) and re.search(value, str(ours))
        for name, field, value in EXPECTED
    )
