"""How far long work is, is told on a terminal and to nobody else.

    tests/tools pytest tests/archive/test_progress.py
"""

import os
import pty
import re
import subprocess

from harness import s3
from harness.broker import binary, run

COUNT = 1000
LINES = b"value\n" * COUNT


def say(command, given, told):
    """Runs a command that has to succeed, with what it says beside its output going there; nobody reads the output."""
    command = [binary(), *command]
    return subprocess.run(command, input=given, stdout=subprocess.DEVNULL, stderr=told, check=True, timeout=60).stderr


def say_on_a_terminal(command, given):
    ours, terminal = pty.openpty()
    try:
        say(command, given, terminal)
    finally:
        os.close(terminal)
    said = b""
    with open(ours, "rb", buffering=0) as ours:
        try:
            while part := ours.read(4096):
                said += part
        except OSError:
            pass  # nobody has the terminal open any more, and all was read
    return said.decode()


def test_long_work_tells_how_far_it_is_on_a_terminal_alone(serve, tmp_path):
    store = s3.FileStore(tmp_path / "store")
    broker = serve(store)
    told = ["--bootstrap", broker.bootstrap]
    run("topic", "create", "shown", *told)
    shown = say_on_a_terminal(["produce", "shown", *told], LINES)
    assert re.search(rf"\rsent {COUNT} records, \d+\.\d MiB, \d+\.\d MiB/s", shown), shown
    assert say(["produce", "other", *told], LINES, subprocess.PIPE) == b""
    for topic in ("shown", "other"):
        # What is sealed is in files, and not in the journal alone.
        run("archive", "flush", topic, "--wait", *told)
    data = broker.directory / "data"
    for command, expected in (
        (["consume", "shown", *told], f"read {COUNT} records, "),
        (["archive", "verify", "shown", "--object-store", store.url], "checked 1 of 1 segments, "),
        (["log", "verify", data], f"checked {2 * COUNT} records, "),
        (["log", "dump", data], f"printed {2 * COUNT} records, "),
    ):
        shown = say_on_a_terminal(command, b"")
        assert f"\r{expected}" in shown, (command, shown)
        assert say(command, b"", subprocess.PIPE) == b"", command
