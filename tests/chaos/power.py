"""Power cuts and failing disks: a file system in a file that forgets what was not synced, turns read-only, or can't sync.

`Disk`: the shutdown ioctl of ext4 and xfs, with its log not flushed, leaves on the device what a power cut leaves with a disk
that has no cache: what was written to it. ext4 can be told that it found an error, after which it takes no writes.

`VolatileDisk`: a block device whose write cache is the memory of a process, which is killed. What was written and not
flushed is gone: a sync that reaches the file system, but not the device, is found out. The cache can be made unable to
flush: writes go on, and every sync fails. And it can stand still, or be slow.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest

from harness.cadence import interrupted

SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN
WITHOUT_LOG_FLUSH = 2
MEBIBYTE = 1 << 20


class Disk:
    """A loop-mounted file system that can lose its power."""

    def __init__(self, directory, kind="ext4", size_mib=2048, features=()):
        self.image, self.mountpoint = directory / f"{kind}.img", directory / kind
        self.kind = kind
        self.mountpoint.mkdir()
        with self.image.open("wb") as image:
            image.truncate(size_mib * MEBIBYTE)
        run(f"mkfs.{kind}", "-q", *features, str(self.image))
        self.mount()

    def mount(self):
        done = subprocess.run(["mount", "-o", "loop", self.image, self.mountpoint], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"this kernel mounts no {self.kind} image: {done.stderr.strip()}")

    def cut_power(self):
        """From here on every access fails, until `restore`."""
        handle = os.open(self.mountpoint, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, SHUTDOWN, struct.pack("I", WITHOUT_LOG_FLUSH))
        except OSError as refused:
            pytest.skip(f"this kernel cannot cut the power of {self.kind}: {refused}")
        finally:
            os.close(handle)

    def turn_read_only(self):
        """What ext4 does when it meets damage, also with files open for writing; only mounting anew, by `restore`, ends it."""
        run("mount", "-o", "remount,errors=remount-ro", str(self.mountpoint))
        device = os.stat(self.mountpoint).st_dev
        name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
        trigger = Path(f"/sys/fs/ext4/{name}/trigger_fs_error")
        if not os.access(trigger, os.W_OK):
            pytest.skip("this kernel has no way to tell ext4 of an error")
        trigger.write_text("on purpose")
        with pytest.raises(OSError, match="Read-only file system"):
            (self.mountpoint / "unwritable").touch()

    def restore(self):
        """Mounts again what the device holds; the journal of the file system is replayed."""
        run("umount", str(self.mountpoint))
        self.mount()

    def remove(self):
        subprocess.run(["umount", "-l", self.mountpoint], check=False)
        self.image.unlink()


class VolatileDisk(Disk):
    """ext4 on a loop device on nbdfuse on nbdkit, which keeps writes in memory until it is told to flush them."""

    def __init__(self, directory, size_mib=2048, features=()):
        self.directory, self.server, self.client, self.loop = directory, None, None, None
        self.fault = directory / "fault"
        (directory / "nbd").mkdir()
        super().__init__(directory, "ext4", size_mib, features)
        self.kind = "a device with a volatile cache"

    def mount(self):
        socket, fuse = self.directory / "nbd.sock", self.directory / "nbd"
        socket.unlink(missing_ok=True)
        # What comes out of the cache fails, and not what goes into it.
        serve = ["nbdkit", "--foreground", "--unix", socket, "--filter=cache", "--filter=error", "file", self.image]
        serve += ["cache=writeback", "error-pwrite-rate=100%", "error-zero-rate=100%", f"error-file={self.fault}"]
        self.server = subprocess.Popen(serve, stderr=subprocess.DEVNULL)
        wait_until(socket.exists, "nbdkit does not listen")
        self.client = subprocess.Popen(["nbdfuse", fuse, "--unix", socket], stderr=subprocess.DEVNULL)
        wait_until(lambda: (fuse / "nbd").exists() or self.client.poll() is not None, "nbdfuse does not mount")
        if self.client.poll() is not None:
            self.detach()
            pytest.skip("this kernel has no FUSE for a block device with a volatile cache")
        made = subprocess.run(["losetup", "--find", "--show", fuse / "nbd"], capture_output=True, text=True)
        if made.returncode:
            self.detach()
            pytest.skip(f"this kernel has no loop device over FUSE: {made.stderr.strip()}")
        self.loop = made.stdout.strip()
        run("mount", self.loop, str(self.mountpoint))

    @contextlib.contextmanager
    def failing_syncs(self):
        """Has every flush of the cache fail for the length of a block; the device then takes again all that it was not given."""
        self.fault.touch()
        try:
            yield
        finally:
            self.fault.unlink()

    @contextlib.contextmanager
    def standing_still(self):
        """Has the device carry out nothing for the length of a block, without an error."""
        self.server.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.server.send_signal(signal.SIGCONT)

    def slow(self):
        """Has the device carry out something a tenth of the time only, for the length of a block."""
        return interrupted(self.server.pid, running_s=0.05, standing_s=0.45)

    def cut_power(self):
        self.server.send_signal(signal.SIGKILL)
        self.server.wait()

    def restore(self):
        self.detach()
        self.mount()

    def detach(self):
        """Lets go of what is left of the device; what its cache held and did not flush goes with it."""
        subprocess.run(["umount", "-l", self.mountpoint], check=False, capture_output=True)
        if self.loop:
            subprocess.run(["losetup", "-d", self.loop], check=False, capture_output=True)
            self.loop = None
        subprocess.run(["fusermount3", "-u", "-z", self.directory / "nbd"], check=False, capture_output=True)
        for process in (self.client, self.server):
            if process and process.poll() is None:
                process.kill()
            if process:
                process.wait()

    def remove(self):
        self.detach()
        self.image.unlink()


def wait_until(reached, failure, within_s=10):
    end = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < end, failure
        time.sleep(0.01)


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def skip_unless_root():
    """Mounting takes root and its tools."""
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        pytest.skip("power cuts need root and mkfs.ext4")


def make(kind, directory):
    """A disk of a kind: ext4, xfs, volatile, or unjournaled: volatile, without a journal that would end with a failed flush."""
    skip_unless_root()
    if kind not in ("volatile", "unjournaled"):
        return Disk(directory, kind)
    if not shutil.which("nbdkit") or not shutil.which("nbdfuse") or not os.path.exists("/dev/fuse"):
        pytest.skip("a block device with a volatile cache needs nbdkit, nbdfuse and FUSE")
    return VolatileDisk(directory, features=["-O", "^has_journal"] if kind == "unjournaled" else ())
