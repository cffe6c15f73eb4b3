"""A proxy in front of an S3 server that fails on demand, in all the ways in which buckets and networks do.

It passes HTTP/1.1 messages whole, in a thread with an event loop of its own. The fault in force is looked at once for each
request, when it has arrived.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading

FAULTS = ["errors", "storm", "denied", "slow", "hang", "reset", "gone", "lost_replies", "truncated"]
REFUSALS = {"errors": (500, "InternalError"), "storm": (503, "SlowDown"), "denied": (403, "AccessDenied")}
SLOW_S = 1.0
STORM = 0.9  # share of requests that a storm refuses
LINGER_ZERO = struct.pack("ii", 1, 0)


class FaultyProxy:
    """Listens on a port of its own, and keeps it when it is `gone`."""

    def __init__(self, upstream, seed=0):
        self.upstream = upstream
        self.fault = None
        self.passed = self.failed = 0
        self.random = random.Random(seed)
        self.connections = {}  # the task that serves each
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.port = 0
        self._do(self._listen())

    @contextlib.contextmanager
    def failing(self, fault):
        """Has a fault in force for the length of a block."""
        assert fault in FAULTS, fault
        self._do(self._begin(fault))
        try:
            yield self
        finally:
            self._do(self._heal())

    def stop(self):
        self._do(self._close())
        self.loop.call_soon_threadsafe(self.loop.stop)

    def _do(self, operation):
        return asyncio.run_coroutine_threadsafe(operation, self.loop).result(30)

    async def _listen(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 20)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _close(self):
        self.server.close()
        for task, writer in list(self.connections.items()):
            writer.transport.abort()
            task.cancel()
        await self.server.wait_closed()

    async def _begin(self, fault):
        self.fault = fault
        if fault == "gone":
            await self._close()

    async def _heal(self):
        was, self.fault = self.fault, None
        if was == "gone":
            await self._listen()

    async def _serve(self, reader, writer):
        self.connections[asyncio.current_task()] = writer
        try:
            while True:
                head, body = await message(reader)
                if not await self._handle(head, body, writer):
                    break
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            pass  # the client has gone, or was sent away
        finally:
            self.connections.pop(asyncio.current_task())
            writer.close()

    async def _handle(self, head, body, writer):
        """Answers one request; false when the connection ends with it."""
        fault = self.fault
        if fault == "storm" and self.random.random() >= STORM:
            fault = None
        if fault in REFUSALS:
            self.failed += 1
            writer.write(error_answer(*REFUSALS[fault]))
            await writer.drain()
            return True
        if fault == "hang":
            self.failed += 1
            # Longer than any client waits; the connection goes when the client closes it or the proxy ends.
            await asyncio.sleep(3600)
        if fault in ("reset", "gone"):
            self.failed += 1
            reset(writer)
            return False
        if fault == "slow":
            self.failed += 1
            await asyncio.sleep(SLOW_S)
        answer_head, answer_body = await self._ask(head, body)
        if fault == "lost_replies":
            self.failed += 1
            reset(writer)
            return False
        if fault == "truncated" and answer_body:
            self.failed += 1
            writer.write(answer_head + answer_body[: len(answer_body) // 2])
            await writer.drain()
            return False
        self.passed += 1
        writer.write(answer_head + answer_body)
        await writer.drain()
        return True

    async def _ask(self, head, body):
        """The server's answer to a request, as bytes of head and body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream, limit=1 << 20)
        try:
            writer.write(head + body)
            await writer.drain()
            return await message(reader, is_bodiless=head.startswith(b"HEAD "))
        finally:
            writer.close()


async def message(reader, is_bodiless=False):
    """Reads a request or an answer: its head with the empty line, and its body as it was framed."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    if is_bodiless or head.split(b" ", 2)[1] in (b"204", b"304"):
        return head, b""
    if b"chunked" in fields.get(b"transfer-encoding", b""):
        return head, await chunks(reader)
    return head, await reader.readexactly(int(fields.get(b"content-length", b"0")))


async def chunks(reader):
    """A chunked body with its framing."""
    body = b""
    while True:
        size = await reader.readuntil(b"\r\n")
        body += size + await reader.readexactly(int(size, 16) + 2)
        if int(size, 16) == 0:
            return body


def error_answer(status, code):
    """An S3 error."""
    body = f"<Error><Code>{code}</Code><Message>on purpose</Message></Error>"
    return f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def reset(writer):
    """Ends a connection as a router that lost its state does: by RST."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
    writer.transport.abort()
