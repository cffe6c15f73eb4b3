"""kcat 1.7, the command line over an old librdkafka."""

import json
import subprocess

from conftest import need
from harness.batch import Record

from .base import Client, Refused


class Kcat(Client):
    """kcat; it cannot set times, and its JSON is for text."""

    name = "kcat"
    sets_times = sets_null_headers = binary = False

    def run(self, *arguments, text=None):
        command = [need("kcat"), "-q", "-b", self.bootstrap, *arguments]
        done = subprocess.run(command, input=text, capture_output=True, timeout=120)
        if done.returncode:
            raise Refused(done.stderr.decode())
        return done.stdout

    def produce(self, topic, records, codec="none"):
        for record in records:
            options = ["-P", "-t", topic, "-p", "0", "-z", codec, "-X", "enable.idempotence=true"]
            options += [part for key, value in record.headers for part in ("-H", f"{key}={value.decode()}")]
            options += ["-Z"] if record.value is None or record.key is None else []
            text = (record.key or b"") + b"\t" + (record.value or b"")
            self.run(*options, "-K", "\t", "-D", "\x01", text=text + b"\x01")

    def produce_file(self, topic, path, codec):
        # kcat has a place for key and value only; the time in between goes into neither.
        pairs = subprocess.run(["cut", "-f", "1,3-", path], check=True, capture_output=True).stdout
        self.run("-P", "-t", topic, "-z", codec, "-K", "\t", text=pairs)
        return pairs.count(b"\n")

    def consume(self, topic, partition, start, count):
        found = self.run("-C", "-t", topic, "-p", str(partition), "-o", str(start), "-c", str(count), "-J")
        return [record_of(json.loads(line)) for line in found.splitlines()]

    def consume_group(self, topic, group, count):
        found = self.run("-X", "auto.offset.reset=earliest", "-c", str(count), "-J", "-G", group, topic)
        return [record_of(json.loads(line)) for line in found.splitlines()]

    def list_offset(self, topic, partition, timestamp):
        if timestamp == -3:
            raise NotImplementedError
        found = self.run("-Q", "-t", f"{topic}:{partition}:{timestamp}").decode()
        return int(found.rsplit("offset", 1)[1])


def record_of(message):
    """A record from kcat's JSON, where null and empty are told apart."""
    pairs = message.get("headers", [])
    headers = [(key, None if value is None else value.encode()) for key, value in zip(pairs[::2], pairs[1::2])]
    value, key = message["payload"], message["key"]
    return Record(
        None if value is None else value.encode(),
        None if key is None else key.encode(),
        headers,
        message["ts"],
        message["offset"],
    )
