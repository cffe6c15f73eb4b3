"""Every scenario in every version: the broker under test answers as Apache Kafka does.

    pytest tests/wire --broker alluvium
    pytest tests/wire --broker kafka        proves the suite: Kafka must equal Kafka
    pytest tests/wire -k damaged_batches-v9
"""

import os
import time

import pytest

from wire import scenarios_cluster, scenarios_frames, scenarios_groups, scenarios_records, scenarios_topics  # noqa: F401
from wire.compare import run
from wire.expected import EXPECTED, SEEN, is_expected
from wire.registry import SCENARIOS

RUN = f"{os.getpid()}-{int(time.time())}"


@pytest.mark.parametrize(
    ("scenario", "version"),
    [(function, version) for function, _, version in SCENARIOS],
    ids=[f"{function.__name__}-v{version}" for function, _, version in SCENARIOS],
)
def test_answers_are_those_of_kafka(broker, kafka, scenario, version):
    label = f"{scenario.__name__[:24]}-{version}-{RUN}"
    lines = run(scenario, version, (broker.bootstrap, kafka.bootstrap), label, is_expected)
    if lines:
        # Apache Kafka's brokers learn of changes some time after they were made: a real difference is there again.
        print("differed once:", *lines[:40], sep="\n")
        lines = run(scenario, version, (broker.bootstrap, kafka.bootstrap), f"{label}-again", is_expected)
    assert not lines, "\n".join(lines[:40])


def test_every_difference_that_is_meant_still_exists(request):
    """One that is gone would let a new one pass in its place."""
    if request.config.getoption("--broker") == "kafka" or request.session.testscollected <= len(SCENARIOS):
        pytest.skip("only where every scenario was run against alluvium")
    assert [meant for meant in EXPECTED if meant not in SEEN] == []
