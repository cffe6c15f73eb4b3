"""Writes the seeds of the targets `requests` and `answers`: a request of every API and version that is served, filled in, and
an answer of every one whose answers the command line reads, behind the API's key and version.

tests/tools exec python tests/fuzz/seed_messages.py requests > tests/fuzz/corpus/requests.hex
tests/tools exec python tests/fuzz/seed_messages.py answers > tests/fuzz/corpus/answers.hex
"""

import struct
import sys
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import schema  # noqa: E402
from harness.batch import Record, build  # noqa: E402
from wire.scenarios_frames import APIS  # noqa: E402


def filled(fields, message):
    """A value for every field, two elements in every list."""
    values = {}
    for field in fields:
        if schema.in_range(field["versions"], message.version):
            values[field["name"]] = value_of(field, field["type"], message)
    return values


def value_of(field, kind, message):
    if kind.startswith("[]"):
        return [value_of(field, kind[2:], message) for _ in range(2)]
    if kind in schema.FIXED:
        return 1
    match kind:
        case "bool":
            return True
        case "string":
            return "ab"
        case "uuid":
            return uuid.UUID(int=7)
        case "bytes":
            return b"\0\1\2"
        case "records":
            return build([Record(b"value", b"key", [("header", b"h")], 1000)])
    return filled(message._fields_of(field), message)


READ = (
    "Produce Fetch ListOffsets Metadata ApiVersions CreateTopics DeleteTopics InitProducerId DescribeConfigs CreatePartitions "
    "IncrementalAlterConfigs ListPartitionReassignments DescribeQuorum DescribeCluster UnregisterBroker AddRaftVoter "
    "RemoveRaftVoter"
).split()


def request(api, version):
    message = schema.Message(schema.request_of(api), version)
    return schema.encode_request(api, version, filled(message.fields, message))


def answer(api, version):
    message = schema.Message(schema.definitions()[api + "Response"], version)
    writer = schema.Writer()
    writer.out += struct.pack(">hhi", schema.request_of(api)["apiKey"], version, 1)
    if message.flexible and api != "ApiVersions":
        writer.unsigned_varint(0)
    message.encode(filled(message.fields, message), writer)
    return bytes(writer.out)


apis, write = {"requests": (APIS, request), "answers": (READ, answer)}[sys.argv[1]]
for api in sorted(apis, key=lambda api: schema.request_of(api)["apiKey"]):
    for version in schema.valid_versions(api):
        print(f"{write(api, version).hex()} # {api} v{version}")
