"""The log as JSON is one object a line, whatever clients are called.

    tests/tools pytest tests/chaos/test_json_log.py
"""

import json
import re

from harness import commits
from harness.broker import Alluvium
from harness.wire import Connection

# As it would end one line and begin another.
FORGED = 'x"}\n{"level":"ERROR","message":"forged"}\r\n\x1b[31mforged\0\u2028{"'


def test_every_line_of_a_json_log_is_one_object(tmp_path):
    broker = Alluvium(tmp_path, "--set", "telemetry.log_format=json", "--set", "telemetry.log_filter=debug")
    try:
        commits.find_coordinator(broker.bootstrap, FORGED)
        named = {"GroupId": FORGED, "ProtocolType": "consumer", "Protocols": [{"Name": FORGED, "Metadata": b""}]}
        times = {"SessionTimeoutMs": 10_000, "RebalanceTimeoutMs": 10_000, "MemberId": "", "GroupInstanceId": FORGED}
        with Connection(broker.bootstrap, 30) as connection:
            assert connection.ask("JoinGroup", 9, named | times | {"Reason": FORGED})["ErrorCode"] == 0
        broker.stop()
    finally:
        broker.kill()
    # Standard output, which is the block of addresses, goes to the same file.
    before, _, after = re.split(r"(?m)^(alluvium .*\n(?:  .*\n)+)", broker.log.read_bytes().decode())
    told = [json.loads(line) for line in (before + after).split("\n") if line]
    assert all({"timestamp", "level", "target"} <= line.keys() for line in told)
    assert not any(line.get("message") == "forged" for line in told)
    assert any("forged" in value for line in told for value in line.values() if isinstance(value, str)), told
