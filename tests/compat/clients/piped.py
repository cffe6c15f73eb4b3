"""Clients in other languages: a process that reads an operation as a line of JSON and answers with one."""

import base64
import json
import subprocess
from pathlib import Path

from harness.batch import Record
from harness.schema import CACHE

from .base import Client, Refused

HERE = Path(__file__).parent


def to_text(data):
    return None if data is None else base64.b64encode(data).decode()


def to_bytes(text):
    return None if text is None else base64.b64decode(text)


class Piped(Client):
    """Forwards every operation to its process, which stays for the next."""

    command = []

    def __init__(self, bootstrap):
        super().__init__(bootstrap)
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=CACHE
        )

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=20)

    def ask(self, op, **arguments):
        print(json.dumps({"op": op, "bootstrap": self.bootstrap} | arguments), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise Refused(f"{self.name} ended: {self.process.stderr.read()[-2000:]}")
        answer = json.loads(answer)
        if error := answer.get("error"):
            raise Refused(error)
        return answer

    def produce(self, topic, records, codec="none"):
        encoded = [
            {
                "partition": 0,
                "key": to_text(record.key),
                "value": to_text(record.value),
                "headers": [[key, to_text(value)] for key, value in record.headers],
                "timestamp": record.timestamp,
            }
            for record in records
        ]
        return self.ask("produce", topic=topic, records=encoded, codec=codec)["offsets"]

    def begin_transactions(self):
        self.ask("begin_transactions", codec="none")

    def produce_file(self, topic, path, codec):
        return self.ask("produce_file", topic=topic, path=str(path), codec=codec)["count"]

    def consume(self, topic, partition, start, count, group=""):
        wanted = {"topic": topic, "partition": partition, "from": start, "count": count, "group": group}
        return [
            Record(
                to_bytes(found["value"]),
                to_bytes(found["key"]),
                [(key, to_bytes(value)) for key, value in found["headers"]],
                found["timestamp"],
                found["offset"],
            )
            for found in self.ask("consume", **wanted)["records"]
        ]

    def consume_group(self, topic, group, count):
        return self.consume(topic, 0, 0, count, group)

    def digest(self, topic, partition, start, count):
        wanted = {"topic": topic, "partition": partition, "from": start, "count": count}
        return self.ask("digest", **wanted)["digest"]

    def list_offset(self, topic, partition, timestamp):
        return self.ask("list_offset", topic=topic, partition=partition, timestamp=timestamp)["offset"]

    def create_topic(self, topic, partitions, configs):
        self.ask("create_topic", topic=topic, partitions=partitions, configs=configs)

    def partition_count(self, topic):
        return self.ask("partition_count", topic=topic)["count"]

    def add_partitions(self, topic, partitions):
        self.ask("add_partitions", topic=topic, partitions=partitions)

    def alter_config(self, topic, configs):
        self.ask("alter_config", topic=topic, configs=configs)

    def describe_config(self, topic):
        return self.ask("describe_config", topic=topic)["configs"]

    def delete_records(self, topic, partition, offset):
        self.ask("delete_records", topic=topic, partition=partition, offset=offset)

    def list_groups(self):
        return self.ask("list_groups")["groups"]

    def describe_group(self, group):
        return self.ask("describe_group", group=group)["state"]

    def committed(self, group):
        return self.ask("committed", group=group)["total"]

    def delete_group(self, group):
        self.ask("delete_group", group=group)

    def delete_topic(self, topic):
        self.ask("delete_topic", topic=topic)


class Franz(Piped):
    """franz-go."""

    name = "franz-go"
    command = [CACHE / "bin" / "franz-go-client"]


class Java(Piped):
    """Apache Kafka's own Java clients."""

    name = "java"
    command = ["java", "-Xmx512m", "-cp", f"{CACHE}/kafka-4.3.1/*", HERE / "java" / "Client.java"]
