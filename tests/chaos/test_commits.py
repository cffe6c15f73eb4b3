"""Committed offsets take disk for what is live, however many were committed, and are all there after a restart.

benches/groups/commits does the same with ten million of them, and measures.
"""

from harness import broker as brokers
from harness.commits import Load, disk_bytes

# 25 MB of records, of which 64 KiB are live.
COMMITS = 400_000
# Two groups lie on at most two partitions; each log is rewritten at a megabyte, and what it passed goes by whole segments.
BOUND_BYTES = 8 << 20


def test_commits_leave_bounded_disk_and_survive_restarts(eventually):
    broker = brokers.Alluvium()
    try:
        load = Load(broker, "commits", groups=2, partitions=500)
        load.run(COMMITS)
        load.check()
        eventually(lambda: disk_bytes(broker.directory / "data") < BOUND_BYTES, within_s=60)
        broker.kill()
        broker.start()
        load.check()
        load.run(COMMITS // 10)
        load.check()
        eventually(lambda: disk_bytes(broker.directory / "data") < BOUND_BYTES, within_s=60)
    finally:
        broker.stop()
