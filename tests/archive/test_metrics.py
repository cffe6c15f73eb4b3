"""All of `/metrics` is Prometheus' text format: read by Prometheus' own parser for Python, and, since that one is lenient, by line.

    tests/tools pytest tests/archive/test_metrics.py
"""

import itertools
import math
import re
import struct
import urllib.request
from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families

from archive.conftest import flags, flush
from compat.clients import LibRdKafka
from harness import s3, topics
from harness.batch import Record, build
from harness.broker import Alluvium
from harness.patience import wait_until
from harness.wire import Closed, Connection

COUNT = 100
# Of one record, which is sent twice, and twice read back.
LARGE_BYTES = 100_000
AT_ONCE = {"local.retention.ms": 1, "local.retention.bytes": 1}
CORRUPT_MESSAGE = 2
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{{LABEL}(?:,{LABEL})*\}})? (?:[-+]?[0-9][0-9.]*(?:e[-+]?[0-9]+)?|[-+]Inf|NaN)")
# What samples of a family may add to its name.
SUFFIXES = {"counter": {""}, "gauge": {""}, "histogram": {"_bucket", "_count", "_sum"}}
# What the operations page and the benchmarks look at, of each kind.
KNOWN = {
    "alluvium_archive_lag_seconds": "gauge",
    "alluvium_archive_fenced_commits_total": "counter",
    "alluvium_archive_read_damaged_reads_total": "counter",
    "alluvium_archive_read_failed_reads_total": "counter",
    "alluvium_archive_urgent": "gauge",
    "alluvium_cache_hits_total": "counter",
    "alluvium_journal_write_seconds": "histogram",
    "alluvium_log_offline_directories": "gauge",
    "alluvium_log_time_to_full_seconds": "gauge",
    "alluvium_log_unavailable_partitions": "gauge",
    "alluvium_memory_used_bytes": "gauge",
    "alluvium_process_ready": "gauge",
    "alluvium_produce_duplicate_batches_total": "counter",
    "alluvium_produce_records_total": "counter",
    "alluvium_produce_rejected_batches_total": "counter",
    "alluvium_server_connections": "gauge",
    "alluvium_server_refused_connections_total": "counter",
    "alluvium_server_request_bytes_total": "counter",
    "alluvium_server_request_duration_seconds": "histogram",
    "alluvium_server_response_bytes_total": "counter",
    "alluvium_server_throttle_seconds": "histogram",
    "alluvium_store_available": "gauge",
    "alluvium_store_errors_total": "counter",
    "alluvium_store_read_bytes_total": "counter",
    "alluvium_store_request_seconds": "histogram",
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """What a broker shows that was produced to and archived, read from in both tiers, and that refused something."""
    directory = tmp_path_factory.mktemp("metrics")
    broker = Alluvium(directory / "broker", *flags(s3.FileStore(directory / "store")))
    try:
        topics.create(broker.bootstrap, "counted", configs=AT_ONCE)
        LibRdKafka(broker.bootstrap).produce("counted", [Record(b"value")] * COUNT)
        assert len(topics.records(broker.bootstrap, "counted")) == COUNT
        with Connection(broker.bootstrap, 30) as connection:
            assert topics.list_offsets(connection, "nowhere", [0], topics.EARLIEST)[0]["ErrorCode"] != 0
            refuse_a_batch_and_repeat_another(connection)
            refuse_a_connection(broker)
            read_from_the_archive_twice(broker)
            # Counted last of what an upload is counted in.
            wait_until(lambda: broker.metrics()["alluvium_archive_commit_seconds_count"] > 0)
            with urllib.request.urlopen(f"http://{broker.http}/metrics", timeout=10) as answer:
                assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
                shown = answer.read().decode()
    finally:
        broker.stop()
    return shown


def refuse_a_batch_and_repeat_another(connection):
    """Has one batch refused, and one of an idempotent producer sent twice."""

    def produce(data):
        body = {"Acks": -1, "TimeoutMs": 10_000}
        body["TopicData"] = [{"Name": "counted", "PartitionData": [{"Index": 0, "Records": data}]}]
        return connection.ask("Produce", 9, body)["Responses"][0]["PartitionResponses"][0]

    assert produce(build([Record(b"damaged")], crc=1))["ErrorCode"] == CORRUPT_MESSAGE
    given = connection.ask("InitProducerId", 4, {"TransactionalId": None, "TransactionTimeoutMs": 1000})
    producer = given["ProducerId"], given["ProducerEpoch"], 0
    again = build([Record(bytes(LARGE_BYTES))], producer=producer)
    first, second = produce(again), produce(again)
    assert first["ErrorCode"] == second["ErrorCode"] == 0 and first["BaseOffset"] == second["BaseOffset"] == COUNT


def refuse_a_connection(broker):
    """Has a connection closed for what it sends."""
    with Connection(broker.bootstrap, 30) as connection:
        connection.socket.sendall(struct.pack(">i", -1))
        with pytest.raises(Closed):
            connection.receive_frame()
    # Counted when the connection has ended.
    wait_until(lambda: broker.metrics()['alluvium_server_refused_connections_total{reason="bad_frame"}'] > 0)


def read_from_the_archive_twice(broker):
    """Has all records leave the disk, and reads them from the bucket, and then from what was kept of that."""
    flush(broker, "counted")
    wait_until(lambda: topics.offset(broker.bootstrap, "counted", 0, topics.EARLIEST_LOCAL) == COUNT + 1)
    for _ in range(2):
        assert len(topics.records(broker.bootstrap, "counted")) == COUNT + 1


@pytest.fixture(scope="module")
def families(text):
    """The families that the parser finds."""
    return list(text_string_to_metric_families(text))


def shown_name(family):
    """A family's name as it is in the text; the parser takes `_total` away."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def series(sample):
    return sample.name, tuple(sorted(sample.labels.items()))


def test_every_line_is_of_a_family_that_has_said_its_help_and_type_once(text):
    assert text.endswith("\n") and "\r" not in text
    family, kind, seen, lines = None, None, set(), iter(text.split("\n")[:-1])
    for line in lines:
        if line.startswith("#"):
            described = re.fullmatch(rf"# HELP ({NAME}) (\S.*)", line)
            assert described, f"neither a sample nor the help of a family: {line}"
            family = described[1]
            assert family not in seen, f"{family} comes twice"
            seen.add(family)
            typed = re.fullmatch(rf"# TYPE {family} (counter|gauge|histogram)", next(lines, ""))
            assert typed, f"{family} has no type"
            kind = typed[1]
            assert family.startswith("alluvium_") and family.endswith("_total") == (kind == "counter"), family
        else:
            sample = SAMPLE.fullmatch(line)
            assert sample and family, line
            assert sample[1] in {family + suffix for suffix in SUFFIXES[kind]}, f"{line} in {family}"
    assert len(seen) > 50


def test_the_parser_finds_every_family_and_sample(text, families):
    typed = re.findall(rf"^# TYPE ({NAME}) (\S+)$", text, re.MULTILINE)
    assert [(shown_name(family), family.type) for family in families] == typed
    assert all(family.documentation for family in families)
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert sum(len(family.samples) for family in families) == len(samples)


def test_no_series_comes_twice_and_each_has_a_value(families):
    samples = [sample for family in families for sample in family.samples]
    twice = [name for name, times in Counter(map(series, samples)).items() if times > 1]
    assert not twice, twice
    assert all(math.isfinite(sample.value) for sample in samples)
    counted = [sample for family in families if family.type != "gauge" for sample in family.samples]
    assert all(sample.value >= 0 for sample in counted)


def test_histograms_are_cumulative_and_end_at_infinity(families):
    found = 0
    for family in families:
        if family.type != "histogram":
            continue
        others = lambda sample: sorted((key, value) for key, value in sample.labels.items() if key != "le")
        for labels, group in itertools.groupby(family.samples, key=others):
            group, where = list(group), f"{family.name} {labels}"
            buckets = [(float(one.labels["le"]), one.value) for one in group if one.name.endswith("_bucket")]
            bounds, counts = zip(*buckets)
            assert len(bounds) > 2 and bounds[-1] == math.inf, where
            assert list(bounds) == sorted(set(bounds)) and list(counts) == sorted(counts), where
            rest = {one.name.removeprefix(family.name): one.value for one in group if "le" not in one.labels}
            assert rest.keys() == {"_count", "_sum"} and rest["_count"] == counts[-1] and rest["_sum"] >= 0, where
            found += 1
    assert found > 20


def test_what_others_look_at_is_there_and_counts(families):
    kinds = {shown_name(family): family.type for family in families}
    assert {name: kinds.get(name) for name in KNOWN} == KNOWN
    values = {series(sample): sample.value for family in families for sample in family.samples}
    plain = lambda name: values[name, ()]
    assert plain("alluvium_process_ready") == 1 and plain("alluvium_log_offline_directories") == 0
    assert plain("alluvium_log_unavailable_partitions") == 0
    assert plain("alluvium_produce_records_total") >= COUNT
    assert plain("alluvium_archive_archived_segments_total") >= 1
    assert plain("alluvium_process_resident_bytes") > 1 << 20
    assert values["alluvium_server_requests_total", (("api", "Produce"),)] >= 1
    refused = ("api", "ListOffsets"), ("error", "UNKNOWN_TOPIC_OR_PARTITION")
    assert values["alluvium_server_request_errors_total", refused] >= 1
    assert plain("alluvium_produce_rejected_batches_total") == plain("alluvium_produce_duplicate_batches_total") == 1


def test_connections_bytes_and_reads_of_the_archive_are_counted(families):
    values = {series(sample): sample.value for family in families for sample in family.samples}
    plain = lambda name: values[name, ()]
    assert plain("alluvium_server_connections") >= 1
    reasons = ("total_limit", "address_limit", "bad_frame", "idle", "shutdown")
    refused = {reason: values["alluvium_server_refused_connections_total", (("reason", reason),)] for reason in reasons}
    assert refused == dict.fromkeys(reasons, 0) | {"bad_frame": 1}
    # A record came twice and left twice, and little else of that size.
    for name in ("request", "response"):
        assert 2 * LARGE_BYTES < plain(f"alluvium_server_{name}_bytes_total") < 3 * LARGE_BYTES
    assert plain("alluvium_cache_misses_total") >= 1 and plain("alluvium_cache_hits_total") >= 1
    assert plain("alluvium_store_read_bytes_total") >= plain("alluvium_archive_read_fetched_bytes_total") > 0
    failed = "alluvium_archive_read_failed_reads_total", "alluvium_archive_read_damaged_reads_total"
    assert not any(map(plain, failed))
    errors = {dict(labels)["operation"]: value for (name, labels), value in values.items() if name == "alluvium_store_errors_total"}
    assert errors["get_ranges"] == 0 and errors.keys() >= {"put", "get", "replace", "list", "delete"}
