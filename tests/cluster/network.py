"""Machines with a router between them, made of network namespaces: every way from one broker to another can be cut by itself.

Clients are outside and reach all brokers, whichever of them reach each other. What is cut is dropped without a word, by rules
of the router's routing, which needs nothing but `ip`. Addresses are of the block that is reserved for such tests (RFC 2544).
"""

import contextlib
import os
import shutil
import subprocess

import pytest

from conftest import need

CLIENT = 0  # the number of where the clients are
FORWARD = "echo 1 > /proc/sys/net/ipv4/ip_forward"
TABLE = "table ip lossy"


class Network:
    """One for each test run at a time: where the clients are it takes a route."""

    def __init__(self, size):
        if os.geteuid() != 0:
            pytest.skip("network namespaces need root")
        need("ip")
        self.size, self.cuts = size, []
        self.tag = f"alv{os.getpid() % 100_000}"
        self.router = f"{self.tag}-router"
        try:
            self._make()
        except NoNetwork as failure:
            self.remove()
            pytest.skip(f"this kernel has no network of namespaces: {failure}")

    def _make(self):
        ip("netns", "add", self.router)
        ip("netns", "exec", self.router, "sh", "-c", FORWARD)
        self._link(CLIENT, f"{self.tag}c")
        # The router's end of the pair was made with the other end beside it, which belongs here.
        ip("-n", self.router, "link", "set", f"{self.tag}c", "netns", str(os.getpid()))
        self._address(CLIENT, f"{self.tag}c")
        ip("route", "add", "198.18.0.0/16", "via", gateway(CLIENT))
        for number in range(1, self.size + 1):
            space = self.namespace(number)
            ip("netns", "add", space)
            self._link(number, f"{self.tag}n")
            ip("-n", self.router, "link", "set", f"{self.tag}n", "netns", space)
            self._address(number, f"{self.tag}n", "-n", space)
            ip("-n", space, "link", "set", "lo", "up")
            ip("-n", space, "route", "add", "default", "via", gateway(number))

    def _link(self, number, other):
        near = f"to{number}"
        ip("-n", self.router, "link", "add", near, "type", "veth", "peer", "name", other)
        ip("-n", self.router, "address", "add", f"{gateway(number)}/24", "dev", near)
        ip("-n", self.router, "link", "set", near, "up")

    def _address(self, number, device, *where):
        ip(*where, "address", "add", f"{address(number)}/24", "dev", device)
        ip(*where, "link", "set", device, "up")

    def namespace(self, number):
        return f"{self.tag}-{number}"

    def place(self, number):
        """Where the broker of a number runs, for `nodes.Cluster`."""
        return {"host": address(number), "within": ["ip", "netns", "exec", self.namespace(number)]}

    def cut(self, sources, targets):
        """Drops what goes from some to others, in this direction."""
        for source in sources:
            for target in targets:
                rule = ["from", address(source), "to", address(target), "blackhole"]
                ip("-n", self.router, "rule", "add", *rule)
                self.cuts.append(rule)

    def split(self, ones, others):
        """Drops what goes between some and others, in both directions."""
        self.cut(ones, others)
        self.cut(others, ones)

    def heal(self):
        """Nothing is cut any more."""
        while self.cuts:
            ip("-n", self.router, "rule", "del", *self.cuts.pop())

    @contextlib.contextmanager
    def lossy(self, percent):
        """Loses so many of a hundred datagrams, each by itself, for the length of a block."""
        nft = ["ip", "netns", "exec", self.router, need("nft")]
        rule = f"ip protocol udp numgen random mod 100 < {percent} counter drop"
        made = f"{TABLE} {{ chain forward {{ type filter hook forward priority 0; {rule} }} }}"
        done = subprocess.run([*nft, "-f", "-"], input=made, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"this kernel can't lose packets at random: {done.stderr.strip()}")
        try:
            yield
            told = subprocess.run([*nft, "list", "ruleset"], capture_output=True, text=True, check=True).stdout
            assert "packets 0 " not in told, f"nothing was lost: {told}"
        finally:
            subprocess.run([*nft, "delete", *TABLE.split()], capture_output=True, check=True)

    @contextlib.contextmanager
    def slow(self, delay_ms, jitter_ms):
        """Has everything to brokers take longer, and overtake each other, for the length of a block."""
        need("tc")
        netem = ["netem", "delay", f"{delay_ms}ms", f"{jitter_ms}ms"]
        devices = [f"to{number}" for number in range(1, self.size + 1)]
        made = []
        try:
            for device in devices:
                command = ["tc", "-n", self.router, "qdisc", "add", "dev", device, "root", *netem]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    pytest.skip(f"this kernel can't delay packets (netem): {done.stderr.strip()}")
                made.append(device)
            yield
        finally:
            for device in made:
                subprocess.run(["tc", "-n", self.router, "qdisc", "del", "dev", device, "root"], check=True)

    def remove(self):
        """Takes all of it away; a link goes with either of its ends."""
        if shutil.which("ip"):
            for space in [self.router, *map(self.namespace, range(1, self.size + 1))]:
                subprocess.run(["ip", "netns", "del", space], capture_output=True)


class NoNetwork(Exception):
    """A part of the network can't be made."""


def address(number):
    return f"198.18.{number}.2"


def gateway(number):
    return f"198.18.{number}.1"


def ip(*arguments):
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise NoNetwork(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
