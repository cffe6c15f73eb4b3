"""Record batches (magic 2, KIP-98), built and taken apart apart from the broker's own code."""

import gzip
import struct
from dataclasses import dataclass, field

import cramjam
import crc32c
import lz4.frame
import zstandard

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
HEADER = struct.Struct(">qiibIhiqqqhii")
XERIAL = b"\x82SNAPPY\x00"


@dataclass
class Record:
    """One record; times are milliseconds since 1970."""

    value: bytes | None
    key: bytes | None = None
    headers: list = field(default_factory=list)
    timestamp: int = 0
    offset: int = -1


@dataclass
class Batch:
    """A batch as it was read."""

    base_offset: int
    leader_epoch: int
    attributes: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    records: list
    next_offset: int = -1


def varint(value):
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def nullable(data):
    return varint(-1) if data is None else varint(len(data)) + data


def compress(codec, data):
    match CODECS[codec]:
        case "none":
            return data
        case "gzip":
            return gzip.compress(data)
        case "snappy":
            return bytes(cramjam.snappy.compress_raw(data))
        case "lz4":
            return lz4.frame.compress(data, content_checksum=False, store_size=False)
        case "zstd":
            return zstandard.compress(data)


def decompress(codec, data):
    match CODECS[codec]:
        case "none":
            return data
        case "gzip":
            return gzip.decompress(data)
        case "snappy":
            return snappy_blocks(data)
        case "lz4":
            return lz4.frame.decompress(data)
        case "zstd":
            return zstandard.ZstdDecompressor().decompressobj().decompress(data)


def snappy_blocks(data):
    """Snappy as Java's clients frame it, or one raw block as others send it."""
    if not data.startswith(XERIAL):
        return bytes(cramjam.snappy.decompress_raw(data))
    out, at = b"", 16
    while at < len(data):
        size = struct.unpack_from(">i", data, at)[0]
        out += bytes(cramjam.snappy.decompress_raw(data[at + 4 : at + 4 + size]))
        at += 4 + size
    return out


def build(records, codec="none", producer=(-1, -1, -1), base_offset=0, attributes=0, **lies):
    """The bytes of a batch. `producer` is (id, epoch, base sequence); `lies` overrides header fields by name."""
    base, last = records[0].timestamp, max(record.timestamp for record in records)
    body = b""
    for delta, record in enumerate(records):
        inner = b"\0" + varint(record.timestamp - base) + varint(delta) + nullable(record.key) + nullable(record.value)
        inner += varint(len(record.headers))
        for key, value in record.headers:
            inner += varint(len(key.encode())) + key.encode() + nullable(value)
        body += varint(len(inner)) + inner
    payload = compress(CODECS.index(codec), body)
    count = lies.get("count", len(records))
    tail = struct.pack(
        ">hiqqqhii",
        lies.get("attributes", attributes | CODECS.index(codec)),
        lies.get("last_offset_delta", len(records) - 1),
        base,
        lies.get("max_timestamp", last),
        *producer,
        count,
    )
    tail += lies.get("payload", payload)
    crc = lies.get("crc", crc32c.crc32c(tail))
    length = lies.get("length", len(tail) + 9)
    return struct.pack(">qiibI", base_offset, length, -1, lies.get("magic", 2), crc) + tail


def parse(data):
    """All whole batches in the bytes of a fetch; a cut-off last one is left out, as clients do."""
    batches, at = [], 0
    while at + HEADER.size <= len(data):
        fields = HEADER.unpack_from(data, at)
        base_offset, length, leader_epoch, magic, crc, attributes = fields[:6]
        end = at + 12 + length
        if end > len(data):
            break
        assert magic == 2, f"magic {magic}"
        assert crc == crc32c.crc32c(data[at + 21 : end]), f"checksum of the batch at {base_offset}"
        delta, base_time, max_time, producer_id, producer_epoch, base_sequence, count = fields[6:]
        payload = decompress(attributes & 7, data[at + HEADER.size : end])
        append_time = max_time if attributes & 8 else None
        records = records_of(payload, count, base_offset, base_time, append_time)
        next_offset = base_offset + delta + 1
        batches.append(
            Batch(base_offset, leader_epoch, attributes, producer_id, producer_epoch, base_sequence, records, next_offset)
        )
        at = end
    return batches


def records_of(payload, count, base_offset, base_time, append_time):
    reader, records = Cursor(payload), []
    for _ in range(count):
        size = reader.varint()
        end = reader.at + size
        reader.take(1)
        timestamp = base_time + reader.varint()
        offset = base_offset + reader.varint()
        key, value = reader.nullable(), reader.nullable()
        headers = [(reader.take(reader.varint()).decode(), reader.nullable()) for _ in range(reader.varint())]
        assert reader.at == end, "a record is longer than its fields"
        records.append(Record(value, key, headers, timestamp if append_time is None else append_time, offset))
    assert reader.at == len(payload), "bytes are left over after the last record"
    return records


class Cursor:
    """Reads the varints and byte strings of records."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self):
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return (value >> 1) ^ -(value & 1)

    def nullable(self):
        size = self.varint()
        return None if size < 0 else self.take(size)
