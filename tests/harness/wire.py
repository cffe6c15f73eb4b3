"""A connection to a broker that speaks the protocol one frame at a time."""

import socket
import struct

from . import schema


class Closed(Exception):
    """The broker closed the connection."""


class Connection:
    """One TCP connection; requests may be pipelined with `send` and `receive`."""

    def __init__(self, bootstrap, timeout_s=10):
        host, port = bootstrap.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.next_id = 1
        self.waiting = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send_frame(self, frame):
        """Sends bytes as they are behind a right length."""
        self.socket.sendall(struct.pack(">i", len(frame)) + frame)

    def receive_frame(self):
        size = struct.unpack(">i", self._exactly(4))[0]
        return self._exactly(size)

    def send(self, api, version, body):
        """Sends a request without waiting for the answer."""
        self.send_frame(schema.encode_request(api, version, body, self.next_id))
        self.waiting.append((self.next_id, api, version))
        self.next_id += 1

    def receive(self):
        """The answer to the oldest request in flight; brokers answer in order."""
        expected, api, version = self.waiting.pop(0)
        correlation_id, body = schema.decode_response(api, version, self.receive_frame())
        assert correlation_id == expected, f"answer {correlation_id} to request {expected}"
        return body

    def ask(self, api, version, body):
        self.send(api, version, body)
        return self.receive()

    def _exactly(self, count):
        parts, left = [], count
        while left:
            try:
                part = self.socket.recv(min(left, 1 << 20))
            except ConnectionResetError as reset:
                raise Closed("reset by the broker") from reset
            if not part:
                raise Closed(f"{left} of {count} bytes missing")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
