"""Records of every odd kind: nothing and emptiness, headers twice and null, bytes that are no text, times out of order."""

from .batch import Record

EVENT_TIME = 1_357_016_400_000  # 2013-01-01, when the flights begin

TEXT = [
    Record(b"plain", b"key", [], EVENT_TIME),
    Record(b"no key", None, [], EVENT_TIME + 1),
    Record(b"", b"", [], EVENT_TIME + 2),
    Record(None, b"tombstone", [], EVENT_TIME + 3),
    Record("umlaut ä, snowman ☃".encode(), b"text", [], EVENT_TIME + 4),
    Record(b"headed", b"key", [("a", b"1"), ("b", b"2"), ("a", b"3")], EVENT_TIME + 5),
    Record(b"x" * 5000, b"long", [], EVENT_TIME - 86_400_000),
]
BINARY = [
    Record(bytes(range(256)), bytes(range(255, -1, -1)), [], EVENT_TIME + 6),
    Record(b"value", b"key", [("null", None), ("empty", b""), ("", b"no name"), ("raw", b"\x00\xff")], EVENT_TIME + 7),
]
