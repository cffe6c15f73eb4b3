"""Object stores to archive into: a directory, and a bucket of a real S3 server on loopback (SeaweedFS).

Both look the same to a test: a URL and an environment for alluvium, and what is in it by pyarrow's file systems, which
share nothing with the broker's own code.

    tests/tools exec python tests/harness/s3.py CMD ARGS...

runs a command beside a bucket that ALLUVIUM_TEST_STORE names, with the AWS variables that open it.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pyarrow import fs

BUCKET = "lake"
KEY_ID, SECRET = "lakekeylakekey", "lakesecretlakesecret"
# SeaweedFS listens on each of its ports and on the same plus this, for gRPC.
GRPC = 10_000
# Below the range that the kernel gives out by itself, so that nobody takes a port between the look and the listening.
FIRST_PORT, LAST_PORT = 21_200, 22_700


class SeaweedFs:
    """SeaweedFS with one bucket, in a directory of its own."""

    def __init__(self):
        self.directory = Path(tempfile.mkdtemp(prefix="seaweedfs-"))
        master = free_ports(4)
        self.port = master + 3
        settings = {"dir": self.directory, "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "s3.port": self.port}
        settings |= {"master.port": master, "volume.port": master + 1, "filer.port": master + 2}
        settings |= {"s3.port.iceberg": 0, "s3.port.lance": 0, "admin.ui": "false", "webdav": "false"}
        settings |= {"master.telemetry": "false", "filer.localSocket": self.directory / "filer.sock"}
        command = ["weed", "-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in settings.items())]
        environment = os.environ | {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "S3_BUCKET": BUCKET}
        self.log = self.directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=self.directory
            )
        until = time.monotonic() + 60
        while "enabled components are running" not in self.log.read_text(errors="replace"):
            assert self.process.poll() is None, f"SeaweedFS ended:\n{self.log.read_text(errors='replace')[-4000:]}"
            assert time.monotonic() < until, f"SeaweedFS did not start:\n{self.log.read_text(errors='replace')[-4000:]}"
            time.sleep(0.05)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


class FileStore:
    """A directory as an object store."""

    kind = "file"
    environment = {}

    def __init__(self, directory):
        self.url = f"file://{directory}"
        directory.mkdir(parents=True, exist_ok=True)
        self.files = fs.SubTreeFileSystem(str(directory), fs.LocalFileSystem())


class S3Store:
    """A prefix of the bucket of an S3 server. `port` may be that of a proxy in front of it."""

    kind = "s3"

    def __init__(self, port, prefix):
        self.prefix = prefix
        self.url = f"s3://{BUCKET}/{prefix}"
        self.endpoint = f"127.0.0.1:{port}"
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://{self.endpoint}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }

    @property
    def files(self):
        client = fs.S3FileSystem(
            access_key=KEY_ID, secret_key=SECRET, endpoint_override=self.endpoint, scheme="http", region="us-east-1"
        )
        return fs.SubTreeFileSystem(f"{BUCKET}/{self.prefix}", client)


def keys(store, suffix=""):
    """The keys of all objects in a store whose names end so, in order."""
    found = store.files.get_file_info(fs.FileSelector("", recursive=True, allow_not_found=True))
    return sorted(one.path for one in found if one.type == fs.FileType.File and one.path.endswith(suffix))


def free_ports(count):
    """The first of `count` consecutive ports on loopback that are free, and free again where gRPC wants them."""
    for first in range(FIRST_PORT, LAST_PORT, 10):
        if all(is_free(port) and is_free(port + GRPC) for port in range(first, first + count)):
            return first
    raise AssertionError("no ports are free")


def is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def main(*command):
    """Runs a command beside a fresh bucket, and ends as it did."""
    server = SeaweedFs()
    try:
        store = S3Store(server.port, "test")
        environment = os.environ | store.environment | {"ALLUVIUM_TEST_STORE": store.url}
        return subprocess.run(command, env=environment).returncode
    finally:
        server.stop()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
