"""Power cuts: a file system in a file, whose kernel is told to forget what was not synced.

The shutdown ioctl of ext4 and xfs, with its log not flushed, leaves on the device what a power cut leaves with a disk whose
write cache is honest: what was synced, and nothing that was not.
"""

import fcntl
import os
import shutil
import struct
import subprocess

import pytest

SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN
WITHOUT_LOG_FLUSH = 2
MEBIBYTE = 1 << 20


class Disk:
    """A loop-mounted file system that can lose its power."""

    def __init__(self, directory, kind="ext4", size_mib=2048):
        self.image, self.mountpoint = directory / f"{kind}.img", directory / kind
        self.kind = kind
        self.mountpoint.mkdir()
        with self.image.open("wb") as image:
            image.truncate(size_mib * MEBIBYTE)
        run(f"mkfs.{kind}", "-q", str(self.image))
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

    def restore(self):
        """Mounts again what the device holds; the journal of the file system is replayed."""
        run("umount", str(self.mountpoint))
        self.mount()

    def remove(self):
        subprocess.run(["umount", "-l", self.mountpoint], check=False)
        self.image.unlink()


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def skip_unless_root():
    """Mounting takes root and its tools."""
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        pytest.skip("power cuts need root and mkfs.ext4")
