"""Brokers to test: alluvium from its binary, Apache Kafka from its jars, or one that runs already."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


class Broker:
    """A broker that runs somewhere; `bootstrap` is its address."""

    kind = "running"

    def __init__(self, bootstrap):
        self.bootstrap = bootstrap

    def stop(self):
        """Ends what this object started."""


class Kafka(Broker):
    """Apache Kafka on a free port, in a directory of its own."""

    kind = "kafka"

    def __init__(self, *settings, mode="start", heap="-Xms256m -Xmx512m"):
        self.data = Path(tempfile.mkdtemp(prefix="kafka-"))
        port = free_ports(2)
        self.environment = os.environ | {"KAFKA_PORT": str(port), "KAFKA_DATA": str(self.data), "KAFKA_HEAP": heap}
        super().__init__(f"127.0.0.1:{port}")
        self._script(mode, *settings)
        self.start_seconds = time.time() - float((self.data / "launched").read_text())

    @property
    def pid(self):
        return int((self.data / "pid").read_text())

    def stop(self):
        self._script("stop")
        shutil.rmtree(self.data, ignore_errors=True)

    def _script(self, *arguments):
        subprocess.run([PROJECT / "tests/peers/kafka.sh", *arguments], env=self.environment, check=True)


class Alluvium(Broker):
    """alluvium, with its data in `directory`; it can be killed and started again on the same data."""

    kind = "alluvium"

    def __init__(self, directory=None, *arguments, environment=None):
        self.own_directory = directory is None
        self.directory = Path(directory or tempfile.mkdtemp(prefix="alluvium-"))
        self.arguments = list(arguments)
        self.environment = os.environ | (environment or {})
        # A port that stays the same over restarts, so that clients find the broker again.
        self.port = free_ports(1)
        super().__init__(f"127.0.0.1:{self.port}")
        self.process = None
        self.start_seconds = self.start()

    @property
    def pid(self):
        return self.process.pid

    @property
    def log(self):
        return self.directory / "broker.log"

    def start(self, within_s=60):
        """Starts it and returns the seconds until it served."""
        self.directory.mkdir(parents=True, exist_ok=True)
        ready = self.directory / "ready.json"
        ready.unlink(missing_ok=True)
        command = [binary(), "serve", "--data-dir", self.directory / "data", "--kafka-listen", self.bootstrap]
        command += ["--http-listen", "127.0.0.1:0", "--ready-file", ready, *self.arguments]
        began = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment
            )
        while not ready.exists() or not ready.read_text().strip():
            if self.process.poll() is not None:
                raise RuntimeError(f"alluvium ended with {self.process.returncode}:\n{self.tail()}")
            if time.monotonic() - began > within_s:
                self.process.kill()
                raise RuntimeError(f"alluvium was not ready within {within_s} s:\n{self.tail()}")
            time.sleep(0.005)
        self.http = json.loads(ready.read_text())["http"]
        return time.monotonic() - began

    def metrics(self):
        """The current values of all metrics, by name and labels as Prometheus writes them."""
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=10) as answer:
            lines = [line for line in answer.read().decode().splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    def tail(self, lines=40):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self):
        """SIGKILL, and waits until the process is gone."""
        self.process.kill()
        self.process.wait()

    @contextlib.contextmanager
    def paused(self):
        """Has the process stand still for the length of a block."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def stop(self):
        """SIGTERM; a broker that does not end within seconds or not with 0 is a failure."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                status = self.process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            assert status == 0, f"SIGTERM ended it with {status}:\n{self.tail()}"
        if self.own_directory:
            shutil.rmtree(self.directory, ignore_errors=True)


def binary():
    """The program under test: $ALLUVIUM_BIN, else the newest build of this checkout."""
    if named := os.environ.get("ALLUVIUM_BIN"):
        return Path(named)
    target = Path(os.environ.get("CARGO_TARGET_DIR", PROJECT / "target"))
    built = [path for path in (target / "release/alluvium", target / "debug/alluvium") if path.exists()]
    assert built, f"no build of alluvium under {target}: run cargo build, or set ALLUVIUM_BIN"
    return max(built, key=lambda path: path.stat().st_mtime)


def run(*arguments, environment=None, status=0, within_s=240):
    """Runs a command of alluvium, which has to end with this status; what it wrote, as text."""
    done = subprocess.run(
        [binary(), *map(str, arguments)],
        env=os.environ | (environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=within_s,
    )
    assert done.returncode == status, f"{arguments} ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr}"
    return done.stdout if status == 0 else done.stdout + done.stderr


def launch(kind, *arguments):
    """A fresh broker of a kind; one of alluvium's looks often at what may leave its disk."""
    often = ["--set", "data.retention_interval=1s"]
    return {"kafka": Kafka, "alluvium": lambda *rest: Alluvium(None, *often, *rest)}[kind](*arguments)


def free_ports(count):
    """The first of `count` consecutive free ports on loopback."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = probe.getsockname()[1]
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue


def rss_bytes(pid):
    """Resident memory of a process."""
    return _status_bytes(pid, "VmRSS:")


def peak_bytes(pid):
    """The most memory that a process had resident."""
    return _status_bytes(pid, "VmHWM:")


def _status_bytes(pid, field):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def cpu_seconds(pid):
    """Processor time that a process and its threads have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(kind, *command):
    """Runs a command beside a fresh broker of a kind, which it finds by ALLUVIUM_TEST_BOOTSTRAP, and ends as it did."""
    broker = launch(kind)
    try:
        environment = os.environ | {"ALLUVIUM_TEST_BOOTSTRAP": broker.bootstrap}
        return subprocess.run(command, env=environment).returncode
    finally:
        broker.stop()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
