"""What was produced is read back equal from the bucket alone, once the local copies are gone."""

import pytest

from archive.conftest import archive, flush, parquet_files
from harness import batch, topics
from harness.batch import CODECS, Record
from harness.odd_records import BINARY, EVENT_TIME, TEXT
from harness.patience import wait_until
from harness.wire import Connection

CODEC_BITS = 7
# Local copies may go as soon as they are archived.
AT_ONCE = {"local.retention.ms": 1, "local.retention.bytes": 1}


@pytest.fixture(scope="module")
def hot(home):
    """The batches of a topic with odd records in every codec, as they were read before they were archived and gone."""
    topics.create(home.broker.bootstrap, "odd", configs=AT_ONCE)
    for codec in CODECS:
        home.client.produce("odd", TEXT + BINARY, codec)
    found = list(topics.batches(home.broker.bootstrap, "odd"))
    leave_the_disk(home.broker, "odd")
    return found


def leave_the_disk(broker, topic):
    """Has a topic archived, and waits until the local disk holds nothing of it any more."""
    flush(broker, topic)
    end = topics.offset(broker.bootstrap, topic, 0, topics.LATEST)
    wait_until(lambda: topics.offset(broker.bootstrap, topic, 0, topics.EARLIEST_LOCAL) == end > 0)


def shape(one):
    """A batch as a consumer could tell it from another; how it is compressed is between broker and client."""
    codec_free = one.attributes & ~CODEC_BITS
    identity = one.producer_id, one.producer_epoch, one.base_sequence
    return one.base_offset, one.next_offset, one.leader_epoch, codec_free, identity, one.records


def is_read_back(home, hot):
    return [shape(one) for one in topics.batches(home.broker.bootstrap, "odd")] == [shape(one) for one in hot]


def test_every_record_comes_back_from_the_bucket_as_it_was(home, hot):
    assert [record.value for one in hot for record in one.records] == [one.value for one in TEXT + BINARY] * len(CODECS)
    assert is_read_back(home, hot)
    places = topics.EARLIEST, topics.LATEST_TIERED, topics.EARLIEST_PENDING_UPLOAD
    end = hot[-1].next_offset
    assert [topics.offset(home.broker.bootstrap, "odd", 0, place) for place in places] == [0, end - 1, end]


def test_the_archive_tells_about_itself_with_no_broker_and_a_restart_changes_nothing(home, hot):
    home.broker.stop()
    count = hot[-1].next_offset
    [listed] = archive(home.store, "ls", "odd")
    assert (listed["log_start_offset"], listed["next_offset"], listed["records"]) == (0, count, count)
    assert (listed["min_timestamp"], listed["max_timestamp"]) == (EVENT_TIME - 86_400_000, EVENT_TIME + 7)
    segments = archive(home.store, "describe", "odd")
    assert len(segments) == listed["segments"] and sum(one["record_count"] for one in segments) == count
    [verified, beside] = archive(home.store, "verify", "odd")
    assert beside["ok"] and beside["objects"] >= 4, beside
    assert (verified["ok"], verified["records"], verified["problems"]) == (True, count, [])
    printed = archive(home.store, "cat", "odd")
    assert [one["offset"] for one in printed] == list(range(count))
    texts = [None if record.value is None else record.value.decode() for record in TEXT]
    assert [one["value"] for one in printed[: len(TEXT)]] == texts
    assert [one["offset"] for one in archive(home.store, "cat", "odd", "--from", "7", "-n", "2")] == [7, 8]
    home.broker.start()
    assert is_read_back(home, hot)


def test_an_idempotent_producer_is_known_after_its_records_have_left_the_disk(home, hot):
    broker = home.broker
    topics.create(broker.bootstrap, "once", configs=AT_ONCE)
    with Connection(broker.bootstrap) as connection:
        identity = connection.ask("InitProducerId", 4, {"TransactionalId": None, "TransactionTimeoutMs": 1000})
    producer = identity["ProducerId"], identity["ProducerEpoch"]
    sent = [batch.build([Record(b"%d" % number)], "none", (*producer, number)) for number in range(3)]
    assert [produce(broker, one) for one in sent] == [0, 1, 2]
    leave_the_disk(broker, "once")
    broker.kill()
    broker.start()
    assert produce(broker, sent[2]) in (2, -1)
    following = batch.build([Record(b"3")], "none", (*producer, 3))
    assert produce(broker, following) == 3
    assert [record.value for record in topics.records(broker.bootstrap, "once")] == [b"0", b"1", b"2", b"3"]
    assert is_read_back(home, hot)


def produce(broker, data):
    """Sends one batch to partition 0 of the topic `once`; the offset that it got, or has since an earlier try."""
    written, duplicate = 0, 46
    body = {"Acks": -1, "TimeoutMs": 10_000}
    body["TopicData"] = [{"Name": "once", "PartitionData": [{"Index": 0, "Records": data}]}]
    with Connection(broker.bootstrap) as connection:
        found = connection.ask("Produce", 9, body)["Responses"][0]["PartitionResponses"][0]
    assert found["ErrorCode"] in (written, duplicate), found
    return found["BaseOffset"]


def test_damage_in_the_bucket_is_named(home, fresh_name):
    topic = topics.create(home.broker.bootstrap, fresh_name("damaged"))
    home.client.produce(topic, TEXT)
    flush(home.broker, topic)
    [damaged] = parquet_files(home.store, topic)
    content = home.store.files.open_input_file(damaged).read()
    with home.store.files.open_output_stream(damaged) as out:
        out.write(content[:-1])
    assert damaged in archive(home.store, "verify", topic, status=3)
