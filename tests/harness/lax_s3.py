"""An S3 server that takes no notice of conditions, as some do: what it is told with If-Match or If-None-Match it just writes."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


class Handler(BaseHTTPRequestHandler):
    """The few requests that a broker makes before it gives up on such a server."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.objects[self.key] = content
        self.answer(200, tag=content)

    def do_GET(self):
        if "list-type" in parse_qs(urlsplit(self.path).query):
            return self.answer(200, self.listing())
        content = self.server.objects.get(self.key)
        return self.answer(404) if content is None else self.answer(200, content, tag=content)

    do_HEAD = do_GET

    def do_DELETE(self):
        self.server.objects.pop(self.key, None)
        self.answer(204)

    @property
    def key(self):
        """What follows the bucket's name."""
        return unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]

    def listing(self):
        prefix = parse_qs(urlsplit(self.path).query).get("prefix", [""])[0]
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, content in sorted(self.server.objects.items())
            if key.startswith(prefix)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode()

    def answer(self, status, body=b"", tag=None):
        body = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        if tag is not None:
            self.send_header("ETag", f'"{hashlib.md5(tag).hexdigest()}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        """Nobody reads it."""


class LaxS3:
    """The server, in a thread of its own."""

    def __init__(self, handler=Handler):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.objects = {}
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
