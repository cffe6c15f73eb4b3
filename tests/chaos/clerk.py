"""Somebody who makes topics, changes a configuration and commits offsets while the power may go, writes down what was answered,
and looks for it afterwards.

A request that was not answered, or with an error, may have had its effect, or not. Numbers grow with every request, so that
what is found has to lie between what was answered last and what was asked for last.
"""

import threading
import time

from harness import commits
from harness.wire import Closed, Connection

GROUP = "clerk"
PAUSE_S = 0.02
# A topic is made at every so many steps: each is a directory, and what is on the disk has to stay little.
TOPIC_EVERY = 20
# The configuration that tells the requests apart: any value from here on lets all records pass that are written here.
CONFIG, LEAST = "max.message.bytes", 2_000_000
TOPIC_RESOURCE, SET = 2, 0


class Clerk:
    """Works on a topic that exists, beside others' load on it."""

    def __init__(self, bootstrap, topic, partitions):
        self.bootstrap, self.topic, self.partitions = bootstrap, topic, partitions
        self.steps = 0
        self.made = {}  # the number that each topic was made with, for those whose making was answered
        self.configured, self.committed = [0, 0], [0, 0]  # the last number that was answered, and the last asked for
        self.failure = None
        commits.find_coordinator(bootstrap, GROUP)

    def start(self):
        self.stop_event = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def stop(self):
        self.stop_event.set()
        self.thread.join(30)
        assert not self.thread.is_alive(), "the clerk hangs"

    def _run(self):
        while not self.stop_event.is_set() and not self.failure:
            try:
                with Connection(self.bootstrap, 10) as connection:
                    while not self.stop_event.is_set():
                        self._step(connection)
                        time.sleep(PAUSE_S)
            except (Closed, OSError):
                time.sleep(PAUSE_S)
            except Exception as failure:  # told by who verifies
                self.failure = failure

    def _step(self, connection):
        self.steps += 1
        self._configure(connection, self.steps)
        self._commit(connection, self.steps)
        if self.steps % TOPIC_EVERY == 1:
            self._make(connection, self.steps)

    def _make(self, connection, number):
        name = f"{GROUP}-{number}"
        configs = [{"Name": CONFIG, "Value": str(LEAST + number)}]
        wanted = {"Name": name, "NumPartitions": 1, "ReplicationFactor": 1, "Configs": configs}
        answer = connection.ask("CreateTopics", 7, {"Topics": [wanted], "timeoutMs": 10_000})
        if answer["Topics"][0]["ErrorCode"] == 0:
            self.made[name] = number

    def _configure(self, connection, number):
        self.configured[1] = number
        change = {"Name": CONFIG, "ConfigOperation": SET, "Value": str(LEAST + number)}
        resource = {"ResourceType": TOPIC_RESOURCE, "ResourceName": self.topic, "Configs": [change]}
        answer = connection.ask("IncrementalAlterConfigs", 1, {"Resources": [resource], "ValidateOnly": False})
        if answer["Responses"][0]["ErrorCode"] == 0:
            self.configured[0] = number

    def _commit(self, connection, number):
        self.committed[1] = number
        entries = [{"PartitionIndex": index, "CommittedOffset": number, "CommittedMetadata": ""} for index in range(self.partitions)]
        body = {"GroupId": GROUP, "GenerationIdOrMemberEpoch": -1, "MemberId": ""}
        answer = connection.ask("OffsetCommit", 8, body | {"Topics": [{"Name": self.topic, "Partitions": entries}]})
        if not any(one["ErrorCode"] for one in answer["Topics"][0]["Partitions"]):
            self.committed[0] = number

    def verify(self):
        """Looks for everything that was answered; the broker has just been started."""
        if self.failure:
            raise self.failure
        described = self._described([self.topic, *self.made])
        for name, number in self.made.items():
            assert described[name] == number, f"{name} was acknowledged with {number}, and {described[name]} is there"
        check("configuration", described[self.topic], self.configured)
        for index, found in self._positions().items():
            check(f"offset of partition {index}", found, self.committed)

    def _described(self, names):
        """The number that each topic is configured with; none where there is no such topic."""
        wanted = [{"ResourceType": TOPIC_RESOURCE, "ResourceName": name, "ConfigurationKeys": [CONFIG]} for name in names]
        with Connection(self.bootstrap, 30) as connection:
            results = connection.ask("DescribeConfigs", 4, {"Resources": wanted})["Results"]
        numbers = {}
        for result in results:
            is_there = result["ErrorCode"] == 0
            # By default it is smaller than any number.
            numbers[result["ResourceName"]] = max(int(result["Configs"][0]["Value"]) - LEAST, 0) if is_there else None
        return numbers

    def _positions(self, within_s=60):
        """The committed offset of every partition, once the coordinator has read them; none where there is none."""
        wanted = {"Groups": [{"GroupId": GROUP, "Topics": [{"Name": self.topic, "PartitionIndexes": [*range(self.partitions)]}]}]}
        end = time.monotonic() + within_s
        while True:
            with Connection(self.bootstrap, 30) as connection:
                group = connection.ask("OffsetFetch", 8, wanted)["Groups"][0]
            if group["ErrorCode"] == 0:
                found = group["Topics"][0]["Partitions"]
                # What is not there is −1.
                return {one["PartitionIndex"]: max(one["CommittedOffset"], 0) for one in found}
            assert time.monotonic() < end, f"committed offsets can't be read: {group}"
            time.sleep(0.02)


def check(what, found, numbers):
    answered, asked = numbers
    assert found is not None and answered <= found <= asked, f"{what}: {answered} was acknowledged, {asked} asked for, {found} is there"
