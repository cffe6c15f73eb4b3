"""A process that gets on only now and then: for what a machine is like that has too little of everything."""

import contextlib
import os
import signal
import threading


@contextlib.contextmanager
def interrupted(pid, running_s, standing_s):
    """Has a process stand still and run in turns, for the length of a block."""
    ending = threading.Event()

    def beat():
        while not ending.is_set():
            os.kill(pid, signal.SIGSTOP)
            ending.wait(standing_s)
            os.kill(pid, signal.SIGCONT)
            ending.wait(running_s)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()
