"""The Kafka protocol by its own definitions: encodes and decodes any message in any version.

The message definitions are the JSON files in Apache Kafka's client jar, so this codec shares nothing with the broker's.
A message is a dict from the names in the definitions (`TopicName`, `PartitionIndex`) to values; what is missing takes
its default. Wrong or left-over bytes raise `Malformed`.
"""

import functools
import json
import os
import re
import struct
import uuid
import zipfile
from pathlib import Path

CACHE = Path(os.environ.get("ALLUVIUM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "alluvium")
CLIENT_JAR = CACHE / "kafka-4.3.1" / "kafka-clients-4.3.1.jar"

FIXED = {"int8": ">b", "int16": ">h", "uint16": ">H", "int32": ">i", "uint32": ">I", "int64": ">q", "float64": ">d"}
ZERO_ID = uuid.UUID(int=0)


class Malformed(Exception):
    """Bytes that are not what the definition says."""


def in_range(versions, version):
    """Whether a version lies in a range as the definitions write it: `3+`, `0-4`, `2`, `none`."""
    if not versions or versions == "none":
        return False
    low, _, high = versions.partition("-")
    if low.endswith("+"):
        return version >= int(low[:-1])
    return int(low) <= version <= int(high or low)


@functools.cache
def definitions():
    """All requests and responses by (api key, kind), and the two headers by name."""
    found = {}
    with zipfile.ZipFile(CLIENT_JAR) as jar:
        for name in jar.namelist():
            if not re.fullmatch(r"common/message/\w+\.json", name):
                continue
            text = re.sub(r"^\s*//.*$", "", jar.read(name).decode(), flags=re.M)
            spec = json.loads(text)
            if "apiKey" in spec:
                found[spec["apiKey"], spec["type"]] = spec
            found[spec["name"]] = spec
    return found


@functools.cache
def api_keys():
    """Names of APIs without `Request`, by key."""
    named = (spec for key, spec in definitions().items() if isinstance(key, tuple) and key[1] == "request")
    return {spec["apiKey"]: spec["name"].removesuffix("Request") for spec in named}


def request_of(name):
    """The definition of the request of an API, such as `ListOffsets`."""
    return definitions()[name + "Request"]


def valid_versions(name):
    """The versions of an API in Apache Kafka, both ends included."""
    low, _, high = request_of(name)["validVersions"].partition("-")
    return range(int(low), int(high or low) + 1)


class Writer:
    """Collects the bytes of one message."""

    def __init__(self):
        self.out = bytearray()

    def fixed(self, kind, value):
        self.out += struct.pack(FIXED[kind], value)

    def unsigned_varint(self, value):
        while value > 127:
            self.out.append(value & 127 | 128)
            value >>= 7
        self.out.append(value)

    def length(self, value, flexible, short=False):
        """A length or count; None stands for null."""
        if flexible:
            self.unsigned_varint(0 if value is None else value + 1)
        else:
            self.fixed("int16" if short else "int32", -1 if value is None else value)


class Reader:
    """Takes one message apart."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        if count < 0 or self.at + count > len(self.data):
            raise Malformed(f"{count} bytes wanted at {self.at} of {len(self.data)}")
        self.at += count
        return self.data[self.at - count : self.at]

    def fixed(self, kind):
        return struct.unpack(FIXED[kind], self.take(struct.calcsize(FIXED[kind])))[0]

    def unsigned_varint(self):
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 28:
                raise Malformed("varint is too long")

    def length(self, flexible, short=False):
        if flexible:
            value = self.unsigned_varint() - 1
        else:
            value = self.fixed("int16" if short else "int32")
        return None if value == -1 else value


class Message:
    """One definition in one version."""

    def __init__(self, spec, version):
        self.version = version
        self.fields = spec["fields"]
        self.flexible = in_range(spec.get("flexibleVersions", "none"), version)
        self.structs = {common["name"]: common["fields"] for common in spec.get("commonStructs", [])}

    def encode(self, value, writer):
        self._encode_fields(self.fields, value, writer)

    def decode(self, reader):
        return self._decode_fields(self.fields, reader)

    def _fields_of(self, field):
        return field.get("fields") or self.structs.get(field["type"].removeprefix("[]"))

    def _encode_fields(self, fields, value, writer):
        unknown = set(value) - {field["name"] for field in fields}
        assert not unknown, f"no such fields: {unknown}"
        tagged = []
        for field in fields:
            if not in_range(field["versions"], self.version):
                continue
            if in_range(field.get("taggedVersions"), self.version):
                if field["name"] in value:
                    tagged.append(field)
                continue
            self._encode_value(field, field["type"], value.get(field["name"], self._default(field)), writer)
        if self.flexible:
            writer.unsigned_varint(len(tagged))
            for field in sorted(tagged, key=lambda field: field["tag"]):
                inner = Writer()
                self._encode_value(field, field["type"], value[field["name"]], inner)
                writer.unsigned_varint(field["tag"])
                writer.unsigned_varint(len(inner.out))
                writer.out += inner.out

    def _encode_value(self, field, kind, value, writer):
        flexible = self.flexible and field.get("flexibleVersions") != "none"
        if kind.startswith("[]"):
            writer.length(None if value is None else len(value), flexible)
            for element in value or []:
                self._encode_value(field, kind[2:], element, writer)
        elif kind == "bool":
            writer.out.append(1 if value else 0)
        elif kind in FIXED:
            writer.fixed(kind, value)
        elif kind == "uuid":
            writer.out += (value or ZERO_ID).bytes
        elif kind in ("string", "bytes", "records"):
            data = value.encode() if isinstance(value, str) else value
            writer.length(None if data is None else len(data), flexible, short=kind == "string")
            writer.out += data or b""
        else:
            if in_range(field.get("nullableVersions"), self.version) and not field["type"].startswith("[]"):
                writer.fixed("int8", -1 if value is None else 1)
                if value is None:
                    return
            self._encode_fields(self._fields_of(field), value or {}, writer)

    def _decode_fields(self, fields, reader):
        value = {}
        for field in fields:
            if not in_range(field["versions"], self.version):
                continue
            if in_range(field.get("taggedVersions"), self.version):
                value[field["name"]] = self._default(field)
                continue
            value[field["name"]] = self._decode_value(field, field["type"], reader)
        if self.flexible:
            by_tag = {field["tag"]: field for field in fields if in_range(field.get("taggedVersions"), self.version)}
            for _ in range(reader.unsigned_varint()):
                tag, size = reader.unsigned_varint(), reader.unsigned_varint()
                inner = Reader(reader.take(size))
                if tag in by_tag:
                    value[by_tag[tag]["name"]] = self._decode_value(by_tag[tag], by_tag[tag]["type"], inner)
                else:
                    value.setdefault("_unknown_tags", []).append(tag)
        return value

    def _decode_value(self, field, kind, reader):
        flexible = self.flexible and field.get("flexibleVersions") != "none"
        if kind.startswith("[]"):
            count = reader.length(flexible)
            if count is None:
                return None
            if count > len(reader.data):
                raise Malformed(f"{count} elements in {len(reader.data)} bytes")
            return [self._decode_value(field, kind[2:], reader) for _ in range(count)]
        if kind == "bool":
            return reader.take(1) != b"\0"
        if kind in FIXED:
            return reader.fixed(kind)
        if kind == "uuid":
            return uuid.UUID(bytes=bytes(reader.take(16)))
        if kind in ("string", "bytes", "records"):
            size = reader.length(flexible, short=kind == "string")
            if size is None:
                return None
            data = bytes(reader.take(size))
            return data.decode() if kind == "string" else data
        nullable = in_range(field.get("nullableVersions"), self.version) and not field["type"].startswith("[]")
        if nullable and reader.fixed("int8") < 0:
            return None
        return self._decode_fields(self._fields_of(field), reader)

    def _default(self, field):
        kind, default = field["type"], field.get("default")
        if default == "null":
            return None
        if kind.startswith("[]"):
            return []
        if kind == "bool":
            return default in (True, "true")
        if kind in FIXED:
            return float(default or 0) if kind == "float64" else int(str(default or 0), 0)
        if kind == "uuid":
            return ZERO_ID
        if kind == "string":
            return default or ""
        if kind in ("bytes", "records"):
            return b""
        return {}


def encode_request(api, version, body, correlation_id=1, client_id="alluvium-tests"):
    """The bytes of a request with its header, without the length in front."""
    spec = request_of(api)
    header = Message(definitions()["RequestHeader"], 2 if in_range(spec["flexibleVersions"], version) else 1)
    writer = Writer()
    fields = {"RequestApiKey": spec["apiKey"], "RequestApiVersion": version}
    header.encode(fields | {"CorrelationId": correlation_id, "ClientId": client_id}, writer)
    Message(spec, version).encode(body, writer)
    return bytes(writer.out)


def decode_response(api, version, data):
    """Correlation id and body of a response; every byte has to be used."""
    spec = definitions()[api + "Response"]
    reader = Reader(data)
    # KIP-511: the answer to ApiVersions never has a flexible header.
    flexible = in_range(spec["flexibleVersions"], version) and api != "ApiVersions"
    header = Message(definitions()["ResponseHeader"], 1 if flexible else 0).decode(reader)
    body = Message(spec, version).decode(reader)
    if reader.at != len(data):
        raise Malformed(f"{len(data) - reader.at} bytes left over in {api} {version}")
    return header["CorrelationId"], body
