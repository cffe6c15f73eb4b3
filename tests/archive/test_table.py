"""What an analyst sees of odd records: the types of the columns, nothing and emptiness apart, times in UTC."""

import pytest

from archive.conftest import flush, parquet_files
from archive.readers import READERS
from harness import topics
from harness.odd_records import BINARY, TEXT

# The columns for people, as each reader calls their types.
TYPES = {
    "duckdb": {
        "kafka_partition": "INTEGER",
        "kafka_offset": "BIGINT",
        "kafka_timestamp": "TIMESTAMP WITH TIME ZONE",
        "kafka_headers": 'STRUCT("key" VARCHAR, "value" BLOB)[]',
        "key": "BLOB",
        "value": "BLOB",
    },
    "pyarrow": {
        "kafka_partition": "int32",
        "kafka_offset": "int64",
        "kafka_timestamp": "timestamp[us, tz=UTC]",
        "key": "binary",
        "value": "binary",
    },
    "polars": {
        "kafka_partition": "Int32",
        "kafka_offset": "Int64",
        "kafka_timestamp": "Datetime(time_unit='us', time_zone='UTC')",
        "kafka_headers": "List(Struct({'key': String, 'value': Binary}))",
        "key": "Binary",
        "value": "Binary",
    },
}


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_readers_see_types_nulls_and_times_as_they_are(home, fresh_name, reader):
    topic = topics.create(home.broker.bootstrap, fresh_name("table"))
    home.client.produce(topic, TEXT + BINARY)
    flush(home.broker, topic)
    keys = parquet_files(home.store, topic)
    types = reader.types(home.store, keys)
    assert {name: types[name] for name in TYPES[reader.name]} == TYPES[reader.name]
    found = reader.records(home.store, keys)
    expected = [
        (offset, one.timestamp, one.key, one.value, list(one.headers) or None)
        for offset, one in enumerate(TEXT + BINARY)
    ]
    assert found == expected
