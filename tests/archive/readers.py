"""Readers of Parquet that know nothing of Kafka or alluvium: DuckDB, pyarrow and Polars, each by its own reader of files."""

import io
from collections import defaultdict

import duckdb
import polars
import pyarrow.json
import pyarrow.parquet
from duckdb_extensions import import_extension

from harness import s3


class Reader:
    """Reads some objects of a store as one table."""

    # types(store, keys) -> name of each column to its type, as the reader calls it
    # records(store, keys) -> offset, time in ms, key, value and headers of each row, by offset
    # mean_delays(store, keys) -> carrier to the mean of `arr_delay` in the values, and how many flights it had


class DuckDb(Reader):
    """DuckDB, with the extension for S3 that its makers sign."""

    name = "duckdb"

    def _table(self, store, keys):
        database = duckdb.connect()
        database.sql("SET TimeZone = 'UTC'")
        if store.kind == "s3":
            import_extension("httpfs", con=database)
            database.sql("LOAD httpfs")
            database.sql(
                f"CREATE SECRET (TYPE s3, KEY_ID '{s3.KEY_ID}', SECRET '{s3.SECRET}', REGION 'us-east-1',"
                f" ENDPOINT '{store.endpoint}', URL_STYLE 'path', USE_SSL false)"
            )
        paths = [f"{store.url.removeprefix('file://')}/{key}" for key in keys]
        return database, database.read_parquet(paths)

    def types(self, store, keys):
        _database, table = self._table(store, keys)
        return dict(zip(table.columns, map(str, table.types)))

    def records(self, store, keys):
        _database, table = self._table(store, keys)
        columns = "kafka_offset, epoch_ms(kafka_timestamp), key, value, kafka_headers"
        rows = table.order("kafka_offset").project(columns).fetchall()
        return [(*row[:4], headers_of(row[4])) for row in rows]

    def mean_delays(self, store, keys):
        _database, table = self._table(store, keys)
        columns = "decode(key) AS carrier, avg((decode(value)->>'arr_delay')::double), count(*)"
        rows = table.aggregate(columns, "carrier").fetchall()
        return {carrier: (mean, count) for carrier, mean, count in rows}


class PyArrow(Reader):
    """pyarrow."""

    name = "pyarrow"

    def _table(self, store, keys, columns=None):
        files = store.files
        return pyarrow.concat_tables(
            [pyarrow.parquet.read_table(key, columns=columns, filesystem=files, partitioning=None) for key in keys]
        )

    def types(self, store, keys):
        return {field.name: str(field.type) for field in self._table(store, keys).schema}

    def records(self, store, keys):
        rows = self._table(store, keys).sort_by("kafka_offset").to_pylist()
        return [
            (row["kafka_offset"], ms(row["kafka_timestamp"]), row["key"], row["value"], headers_of(row["kafka_headers"]))
            for row in rows
        ]

    def mean_delays(self, store, keys):
        table = self._table(store, keys, ["key", "value"])
        values = pyarrow.json.read_json(io.BytesIO(b"\n".join(table["value"].to_pylist())))
        delays = defaultdict(list)
        for carrier, delay in zip(table["key"].to_pylist(), values["arr_delay"].to_pylist()):
            delays[carrier.decode()].append(delay)
        return {carrier: (mean(found), len(found)) for carrier, found in delays.items()}


class Polars(Reader):
    """Polars."""

    name = "polars"

    def _table(self, store, keys):
        if store.kind == "file":
            return polars.scan_parquet([f"{store.url}/{key}" for key in keys])
        options = {"aws_access_key_id": s3.KEY_ID, "aws_secret_access_key": s3.SECRET, "aws_region": "us-east-1"}
        options |= {"aws_endpoint_url": f"http://{store.endpoint}", "aws_allow_http": "true"}
        return polars.scan_parquet([f"{store.url}/{key}" for key in keys], storage_options=options)

    def types(self, store, keys):
        return {name: str(kind) for name, kind in self._table(store, keys).collect_schema().items()}

    def records(self, store, keys):
        rows = self._table(store, keys).sort("kafka_offset").collect().rows(named=True)
        return [
            (row["kafka_offset"], ms(row["kafka_timestamp"]), row["key"], row["value"], headers_of(row["kafka_headers"]))
            for row in rows
        ]

    def mean_delays(self, store, keys):
        delay = polars.col("value").cast(polars.String).str.json_path_match("$.arr_delay").cast(polars.Float64)
        carrier = polars.col("key").cast(polars.String).alias("carrier")
        grouped = self._table(store, keys).group_by(carrier).agg(delay.mean().alias("mean"), polars.len())
        return {carrier: (mean, count) for carrier, mean, count in grouped.collect().rows()}


READERS = [DuckDb(), PyArrow(), Polars()]


def mean(values):
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def ms(time):
    return round(time.timestamp() * 1000)


def headers_of(found):
    """Headers as pairs; a record without any has a null there."""
    return None if found is None else [(header["key"], header["value"]) for header in found]
