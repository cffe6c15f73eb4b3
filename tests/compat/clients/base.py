"""What the suite asks of a client. A client that lacks an operation leaves it out, and its cases are not made."""

import hashlib

from harness.batch import Record


class Refused(Exception):
    """The client reported an error; the text is the client's own."""


class Client:
    """A client of one broker. Topics are read and written one partition at a time unless a group is named."""

    name = "client"
    # Whether it can set a record's time, a header's null value, bytes that are no text.
    sets_times = sets_null_headers = binary = True

    def __init__(self, bootstrap):
        self.bootstrap = bootstrap

    def close(self):
        """Ends whatever the client keeps running."""

    # produce(topic, records, codec="none"); each record acknowledged, by an idempotent producer if it has one
    # produce_file(topic, path, codec) -> count; lines of key, time and value, many in flight
    # consume(topic, partition, start, count) -> records
    # consume_group(topic, group, count) -> records; commits what it gave and leaves
    # digest(topic, partition, start, count) -> SHA-256 over `key TAB time TAB value NEWLINE`
    # list_offset(topic, partition, timestamp) -> offset, with the special values of ListOffsets
    # create_topic(topic, partitions, configs), partition_count(topic), add_partitions(topic, partitions),
    # alter_config(topic, configs), describe_config(topic) -> dict, delete_records(topic, partition, offset),
    # list_groups() -> names, describe_group(group) -> state, committed(group) -> sum of offsets,
    # delete_group(group), delete_topic(topic)

    def digest(self, topic, partition, start, count):
        """Hashes records as the operation of this name has to; clients in other languages do it on their side."""
        total = hashlib.sha256()
        for record in self.consume(topic, partition, start, count):
            total.update(line(record))
        return total.hexdigest()


def line(record: Record):
    """The bytes of a record that a digest covers."""
    return b"%s\t%d\t%s\n" % (record.key, record.timestamp, record.value)


def lines_of(path):
    """Key, time and value of each line of a file of real data."""
    with open(path, "rb") as lines:
        for text in lines:
            key, timestamp, value = text.rstrip(b"\n").split(b"\t", 2)
            yield key, int(timestamp), value
