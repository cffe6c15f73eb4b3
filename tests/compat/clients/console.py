"""The console tools of Apache Kafka: a new process for each operation, as a person would run them."""

import json
import os
import subprocess
from pathlib import Path

from harness.batch import Record
from harness.broker import PROJECT
from harness.schema import CACHE

from .base import Client, Refused


def tool(bootstrap, name, *arguments, text=None):
    """Runs a console tool and returns what it printed."""
    command = [PROJECT / "tests/peers/kafka.sh", "tool", name, "--bootstrap-server", bootstrap, *arguments]
    heap = os.environ | {"TOOL_HEAP": "-Xmx256m"}
    done = subprocess.run(command, input=text, capture_output=True, timeout=180, env=heap)
    output = (done.stdout + done.stderr).decode()
    if done.returncode or "Exception" in output or "ERROR" in output:
        raise Refused(output)
    return done.stdout.decode()


class Tools:
    """Console tools in one Java process that stays."""

    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        # Without the jar of tests, whose settings make every tool write a log into the working directory.
        jars = [jar for jar in (CACHE / "kafka-4.3.1").glob("*.jar") if not jar.stem.endswith("-test")]
        source = Path(__file__).parent / "java" / "Tools.java"
        self.process = subprocess.Popen(
            ["java", "-Xmx256m", "-cp", ":".join(map(str, jars)), source],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CACHE,
        )  # fmt: skip

    def run(self, name, *arguments):
        """Runs a tool by its class and returns what it printed."""
        request = {"class": name, "arguments": [*arguments, "--bootstrap-server", self.bootstrap]}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        output = answer["out"] + answer["err"]
        # Some say what is wrong and end with 0 all the same.
        if answer["status"] or "Exception" in output or "Error: " in output:
            raise Refused(output)
        return answer["out"]

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=20)


class Console(Client):
    """kafka-console-producer and kafka-console-consumer; text only, and no times."""

    name = "console"
    sets_times = sets_null_headers = binary = False

    def produce(self, topic, records, codec="none"):
        lines = [self._line(record) for record in records]
        options = ["parse.key=true", "parse.headers=true", "null.marker=NULL"]
        self._produce(topic, codec, options, "\n".join(lines).encode() + b"\n")

    def produce_file(self, topic, path, codec):
        pairs = subprocess.run(["cut", "-f", "1,3-", path], check=True, capture_output=True).stdout
        self._produce(topic, codec, ["parse.key=true"], pairs)
        return pairs.count(b"\n")

    def consume(self, topic, partition, start, count):
        place = ["--partition", str(partition), "--offset", str(start)]
        return self._consume(topic, count, place)

    def consume_group(self, topic, group, count):
        # It commits what it polled, printed or not: so it may not poll more than is wanted.
        exactly = ["--command-property", f"max.poll.records={count}"]
        return self._consume(topic, count, ["--group", group, "--from-beginning", *exactly])

    def _produce(self, topic, codec, options, text):
        properties = [part for option in options for part in ("--reader-property", option)]
        codec = ["--compression-codec", codec]
        tool(self.bootstrap, "org.apache.kafka.tools.ConsoleProducer", "--topic", topic, *codec, *properties, text=text)

    def _consume(self, topic, count, place):
        shown = ["timestamp", "offset", "headers", "key", "value"]
        properties = [part for name in shown for part in ("--formatter-property", f"print.{name}=true")]
        properties += ["--formatter-property", "null.literal=NULL", "--max-messages", str(count)]
        name = "org.apache.kafka.tools.consumer.ConsoleConsumer"
        found = tool(self.bootstrap, name, "--topic", topic, "--timeout-ms", "60000", *place, *properties)
        return [self._record(line) for line in found.splitlines()]

    @staticmethod
    def _line(record):
        headers = ",".join(f"{key}:{value.decode()}" for key, value in record.headers) or "NULL"
        parts = (headers.encode(), *(b"NULL" if part is None else part for part in (record.key, record.value)))
        return b"\t".join(parts).decode()

    @staticmethod
    def _record(line):
        time, offset, headers, key, value = line.split("\t", 4)
        pairs = [] if headers in ("NO_HEADERS", "NULL") else [pair.split(":", 1) for pair in headers.split(",")]
        parsed = [(name, None if value == "NULL" else value.encode()) for name, value in pairs]
        key, value = (None if part == "NULL" else part.encode() for part in (key, value))
        number = int(offset.removeprefix("Offset:"))
        return Record(value, key, parsed, int(time.split(":", 1)[1]), number)
