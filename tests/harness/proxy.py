"""A TCP proxy in front of a broker that notes which version of which API clients send."""

import socket
import struct
import threading

from . import schema


class Proxy:
    """Forwards connections to `target`, an address that may be set later; clients connect to `bootstrap`."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.bootstrap = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.target = None
        self.lock, self.seen = threading.Lock(), set()
        threading.Thread(target=self._accept, daemon=True).start()

    def requests(self):
        """Names of APIs with the versions that were sent since the last call, and forgets them."""
        with self.lock:
            seen, self.seen = self.seen, set()
        names = schema.api_keys()
        found = {}
        for key, version in seen:
            found.setdefault(names.get(key, key), set()).add(version)
        return found

    def stop(self):
        self.listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            host, port = self.target.rsplit(":", 1)
            try:
                broker = socket.create_connection((host, int(port)))
            except OSError:
                client.close()
                continue
            for source, sink, watch in [(client, broker, True), (broker, client, False)]:
                threading.Thread(target=self._pump, args=(source, sink, watch), daemon=True).start()

    def _pump(self, source, sink, watch):
        frames = b""
        try:
            while data := source.recv(1 << 16):
                if watch:
                    frames = self._note(frames + data)
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _note(self, data):
        """Notes the requests that begin in `data`, and returns what is not a whole request yet."""
        while len(data) >= 8:
            size, key, version = struct.unpack_from(">ihh", data)
            with self.lock:
                self.seen.add((key, version))
            if len(data) < 4 + size:
                break
            data = data[4 + size :]
        return data
