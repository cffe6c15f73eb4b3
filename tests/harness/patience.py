"""Waiting for what is promised to come true, without a promise of when."""

import time


def wait_until(condition, within_s=60, every_s=0.05):
    """Looks again and again; a condition that does not come true fails the case."""
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, f"did not come true within {within_s} s"
        time.sleep(every_s)
