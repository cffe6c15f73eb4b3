"""Brokers of one cluster, each a process that can be killed, stopped, paused and started again, by its number.

Ports lie below those that the kernel gives to clients: a client that dials a port where nobody listens could else be given
that same port, connect to itself, and keep the broker from coming back.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from harness.broker import Alluvium, Broker, binary, run
from harness.patience import wait_until
from harness.wire import Closed, Connection

HEALTHY, OFFLINE = 0, 5  # how `alluvium cluster status` ends
START_S, STOP_S, SETTLE_S = 60, 60, 90  # machines are shared
TOPIC_EXISTS = 36
# A group's first member waits for others by default, which here is only time.
EVERYWHERE = ["--set", "groups.initial_rebalance_delay=0ms"]


def unused_ports(count, host="127.0.0.1"):
    """Ports that neither TCP nor UDP has in use, and that no client is given."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found = set()
    while len(found) < count:
        port = random.SystemRandom().randrange(10_000, lowest)
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp, contextlib.suppress(OSError):
            tcp.bind((host, port))
            udp.bind((host, port))
            found.add(port)
    return sorted(found)


class Node(Alluvium):
    """One broker. It is not started by being made; what it writes is kept over its starts."""

    def __init__(self, number, directory, store, *arguments, host="127.0.0.1", within=()):
        # Another machine's addresses can't be looked at from here, and nobody else has them.
        kafka, peer = unused_ports(2) if host == "127.0.0.1" else (9092, 9094)
        Broker.__init__(self, f"{host}:{kafka}")
        self.number, self.directory, self.peer = number, Path(directory), f"{host}:{peer}"
        self.arguments = [*EVERYWHERE, "--object-store", store, *map(str, arguments)]
        self.within, self.environment = list(within), dict(os.environ)
        self.data = [self.directory / "data"]
        self.process, self.own_directory, self.is_paused = None, False, False

    @property
    def ready(self):
        return self.directory / "ready.json"

    @property
    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def launch(self):
        """Starts it, and waits for nothing."""
        assert not self.is_running, f"broker {self.number} runs already"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.ready.unlink(missing_ok=True)
        # The flag takes one directory as it is, with commas and all.
        data = ["--set", f"data.directories={','.join(map(str, self.data))}"]
        command = [*self.within, binary(), "serve", "--node-id", str(self.number), *data]
        command += ["--kafka-listen", self.bootstrap, "--http-listen", "127.0.0.1:0", "--peer-listen", self.peer]
        command += ["--ready-file", self.ready, *self.arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment
            )
        self.is_paused = False

    def until_ready(self, within_s=START_S):
        """Waits until it serves, and takes part in the cluster."""
        until = time.monotonic() + within_s
        while not self.ready.exists() or not self.ready.read_text().strip():
            assert self.is_running, f"broker {self.number} ended with {self.process.returncode}:\n{self.tail()}"
            assert time.monotonic() < until, f"broker {self.number} was not ready within {within_s} s:\n{self.tail()}"
            time.sleep(0.005)
        self.http = json.loads(self.ready.read_text())["http"]

    def start(self, within_s=START_S):
        """Starts it and returns the seconds until it served."""
        began = time.monotonic()
        self.launch()
        self.until_ready(within_s)
        return time.monotonic() - began

    def ended(self, within_s=START_S):
        """Waits until it ends by itself: with which status, and what it said."""
        try:
            return self.process.wait(within_s), self.log.read_text(errors="replace")
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self):
        if self.process is not None:
            super().kill()
        self.is_paused = False

    def terminate(self):
        """SIGTERM, and waits for nothing."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self, within_s=STOP_S):
        """SIGTERM; a broker that does not end in time or not with 0 is a failure."""
        self.terminate()
        self.until_stopped(within_s)

    def until_stopped(self, within_s=STOP_S):
        """Waits until what SIGTERM began is done."""
        try:
            status = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        assert status == 0, f"SIGTERM ended broker {self.number} with {status}:\n{self.tail()}"

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)
        self.is_paused = True

    def resume(self):
        self.process.send_signal(signal.SIGCONT)
        self.is_paused = False


class Cluster:
    """Brokers numbered from 1. The first begins the cluster, the others join by a token."""

    def __init__(self, directory, *arguments, place=None, voters=3):
        self.directory, self.arguments, self.voters = Path(directory), arguments, voters
        self.store = f"file://{self.directory / 'store'}"
        # Says where a broker of a number runs: its host, and what begins its command.
        self.place = place or (lambda number: {})
        self.nodes = {}
        # Brokers that are not asked, as what they know may be old.
        self.apart = set()

    def form(self, size):
        """Starts as many brokers and waits until all take part and as many vote as there are to be."""
        for number in range(1, size + 1):
            self.add(number)
        if self.nodes:
            self.until_well()
        return self

    def new(self, number, *arguments, directory=None, store=None):
        """A broker that is not started, and not one of the cluster's yet: it would begin one of its own."""
        directory = directory or self.directory / f"broker-{number}"
        settings = ["--set", f"cluster.voters={self.voters}", *self.arguments, *arguments]
        return Node(number, directory, store or self.store, *settings, **self.place(number))

    def joining(self, number, *arguments, token=None, **options):
        """A broker that is not started, and would join."""
        members = ",".join(node.peer for node in self.nodes.values())
        token_file = self.write_token(self.token() if token is None else token)
        return self.new(number, "--join", members, "--join-token-file", token_file, *arguments, **options)

    def add(self, number, *arguments):
        """Starts another broker, the first or one that joins."""
        node = self.joining(number, *arguments) if self.nodes else self.new(number, *arguments)
        self.nodes[number] = node
        node.start()
        return node

    def token(self, *arguments):
        """What lets a broker join."""
        first = next(node for node in self.nodes.values() if (node.data[0] / "peers").is_dir())
        return run("cluster", "token", "--data-dir", first.data[0], *arguments).strip()

    def write_token(self, token):
        """A file that holds it and that nobody else reads."""
        path = self.directory / f"token-{abs(hash(token))}"
        path.touch(mode=0o600)
        path.write_text(token + "\n")
        return path

    def kill(self, *numbers):
        """SIGKILL to all of them at once, and waits until they are gone."""
        for number in numbers:
            self.nodes[number].process.kill()
        for number in numbers:
            self.nodes[number].kill()

    def stop(self, number):
        self.nodes[number].stop()

    def pause(self, number):
        self.nodes[number].pause()

    def resume(self, number):
        self.nodes[number].resume()

    def start(self, *numbers):
        """Starts brokers at once, since one may need another to go on, and returns the seconds until the last one served."""
        began = time.monotonic()
        for number in numbers:
            self.nodes[number].launch()
        for number in numbers:
            self.nodes[number].until_ready()
        return time.monotonic() - began

    def end(self):
        """Ends all processes, however they are, and shows what they said last, which pytest prints where a case failed."""
        for node in self.nodes.values():
            node.kill()
            if node.log.exists():
                print(f"broker {node.number}, {node.log}:\n{node.tail()}", file=sys.stderr)

    @property
    def running(self):
        """Brokers that answer, as far as one knows."""
        return [node for node in self.nodes.values() if node.is_running and not node.is_paused and node.number not in self.apart]

    @property
    def bootstrap(self):
        """Where clients begin: at every broker, be it up or down."""
        return ",".join(node.bootstrap for node in self.nodes.values())

    def ask(self, api, version, body, via=None, timeout_s=10):
        """What one of the running brokers answers, or the one of a number."""
        failure = None
        for node in self.running if via is None else [self.nodes[via]]:
            try:
                with Connection(node.bootstrap, timeout_s) as connection:
                    return connection.ask(api, version, body)
            except (OSError, Closed) as refused:
                failure = refused
        raise AssertionError(f"no broker answers {api}: {failure}")

    def status(self, timeout="10s"):
        """What `alluvium cluster status` says: how it ended, what it found, and what it advises."""
        asked = ",".join(node.bootstrap for node in self.running) or self.bootstrap
        command = [binary(), "cluster", "status", "--json", "--bootstrap", asked, "--timeout", timeout]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        found = json.loads(done.stdout) if done.stdout.strip() else None
        return SimpleNamespace(exit=done.returncode, found=found, said=done.stderr)

    def is_well(self):
        """Whether every broker takes part, as many vote as are to, and no partition lacks anything."""
        status = self.status()
        if status.exit != HEALTHY:
            return False
        found, size = status.found, len(self.nodes)
        voters = min(size - 1 + size % 2, self.voters)  # an odd number
        wrong = [found[key] for key in ("fenced", "offline", "under_replicated", "reassigning")]
        return not any(wrong) and len(found["brokers"]) == size and len(found["voters"]) == voters

    def until_well(self, within_s=SETTLE_S):
        """Waits until all is well."""
        try:
            wait_until(self.is_well, within_s, every_s=0.2)
        except AssertionError as failure:
            raise AssertionError(f"not well within {within_s} s: {self.status()}") from failure

    def create(self, topic, partitions=1, replicas=3, **configs):
        """Makes a topic and waits until all of it has leaders and all its replicas are in sync; returns its name."""
        pairs = [{"Name": name.replace("_", "."), "Value": str(value)} for name, value in configs.items()]
        wanted = {"Name": topic, "NumPartitions": partitions, "ReplicationFactor": replicas, "Configs": pairs}
        made = self.ask("CreateTopics", 7, {"Topics": [wanted], "timeoutMs": 10_000})["Topics"][0]
        assert made["ErrorCode"] in (0, TOPIC_EXISTS), made
        self.wait_isr(topic, min(len(self.running), 3) if replicas < 0 else replicas)
        return topic

    def describe(self, topic, via=None):
        """The partitions of a topic by number, as a broker's metadata has them; none while there is no such topic."""
        asked = {"Topics": [{"Name": topic}], "AllowAutoTopicCreation": False}
        (found,) = self.ask("Metadata", 12, asked, via)["Topics"]
        shape = lambda one: SimpleNamespace(
            leader=one["LeaderId"], epoch=one["LeaderEpoch"], replicas=one["ReplicaNodes"], isr=one["IsrNodes"]
        )
        return {one["PartitionIndex"]: shape(one) for one in found["Partitions"]}

    def topic_id(self, topic):
        """The identity of a topic, as its directories are named."""
        (found,) = self.ask("Metadata", 12, {"Topics": [{"Name": topic}], "AllowAutoTopicCreation": False})["Topics"]
        return str(found["TopicId"]).replace("-", "")

    def leader_of(self, topic, partition=0, within_s=SETTLE_S):
        """The number of the broker that leads a partition, once there is one that runs."""
        found = []

        def is_led():
            found[:] = [self.describe(topic)[partition].leader]
            return found[0] in [node.number for node in self.running]

        wait_until(is_led, within_s)
        return found[0]

    def wait_isr(self, topic, count, within_s=SETTLE_S):
        """Waits until every partition of a topic has a leader and as many replicas in sync."""

        def is_so():
            partitions = self.describe(topic).values()
            return bool(partitions) and all(one.leader >= 0 and len(one.isr) == count for one in partitions)

        try:
            wait_until(is_so, within_s)
        except AssertionError as failure:
            raise AssertionError(f"{topic} has not {count} in sync within {within_s} s: {self.describe(topic)}") from failure

    def coordinator_of(self, group, within_s=SETTLE_S):
        """The number of the broker that coordinates a group, once there is one that runs."""
        found = []

        def is_found():
            answer = self.ask("FindCoordinator", 3, {"Key": group, "KeyType": 0})
            found[:] = [answer["NodeId"]]
            return answer["ErrorCode"] == 0 and found[0] in [node.number for node in self.running]

        wait_until(is_found, within_s)
        return found[0]

    @property
    def metadata_leader(self):
        """The number of the broker that leads the metadata quorum; none while nobody does."""
        found = self.status().found
        return found and found["leader"]
