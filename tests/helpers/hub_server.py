"""A Hugging Face hub on this machine: the few answers that its own clients ask for.

`serve` gives one data set and one model at one commit, so that the real clients can be tested
where no hub can be reached.
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextlib.contextmanager
def serve(files: dict[str, bytes]) -> Iterator[str]:
    """The address of a hub whose every repository holds ``files`` at `COMMIT`."""
    handler = type("Handler", (_Hub,), {"files": files})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Hub(BaseHTTPRequestHandler):
    files: dict[str, bytes]

    def do_GET(self):
        path = self.path.partition("?")[0]
        name = path.rpartition("/")[2]
        if f"/resolve/{COMMIT}/" in path and name in self.files:
            tag = f'"{hashlib.sha1(self.files[name]).hexdigest()}"'
            self._send(self.files[name], {"ETag": tag, "X-Repo-Commit": COMMIT})
        elif path.endswith(f"/tree/{COMMIT}"):
            listed = [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                for name, content in self.files.items()
            ]
            self._send(json.dumps(listed).encode())
        elif path.endswith(f"/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in self.files]
            info = {"id": "org/name", "sha": COMMIT, "siblings": siblings, "tags": []}
            self._send(json.dumps(info).encode())
        else:
            self._send(b"", {"X-Error-Code": "EntryNotFound"}, status=404)

    do_HEAD = do_GET

    def _send(self, body: bytes, headers: dict | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        """Print nothing."""
