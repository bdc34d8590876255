"""A local stand-in for the Hugging Face hub: the questions that snapshot_download asks, over plain HTTP.

It counts what is asked, can stop in the middle of a file, and refuses models that are gated or unknown.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Request:
    """One request for a file's content."""

    path: str
    first_byte: int


@dataclass
class ModelHub:
    """The hub, as a context manager.

    Attributes:
        models: files of each model, by id.
        gated: ids that ask for access first.
        stop_after: bytes after which the content of a file stops coming, by file name.
        requests: the contents that were asked for.
    """

    models: dict[str, dict[str, bytes]]
    gated: frozenset[str] = frozenset()
    stop_after: dict[str, int] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> ModelHub:
        hub = self

        class Handler(_Handler):
            hub = self

        self.stopped = threading.Event()
        self._end = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=hub._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def wait_for_end(self) -> None:
        """Hold a file's content back for as long as this hub runs."""
        self.stopped.set()
        self._end.wait()


class _Handler(BaseHTTPRequestHandler):
    hub: ModelHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def log_message(self, format: str, *arguments: object) -> None:
        """Be silent."""

    def _answer(self, has_body: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        is_question = parts[:2] == ["api", "models"]
        parts = parts[2:] if is_question else parts
        model_id, rest = "/".join(parts[:2]), parts[2:]
        files = self.hub.models.get(model_id)
        if files is None:
            self._send(404, {"X-Error-Code": "RepoNotFound"}, b"{}", has_body)
        elif model_id in self.hub.gated and not is_question:
            self._send(401, {"X-Error-Code": "GatedRepo"}, b"{}", has_body)
        elif rest[1:2] == ["no-such-branch"]:
            self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"{}", has_body)
        elif is_question:
            siblings = [{"rfilename": name} for name in files]
            answer = {"id": model_id, "sha": COMMIT, "siblings": siblings}
            self._send(200, {"Content-Type": "application/json"}, json.dumps(answer).encode(), has_body)
        else:
            self._file(files, "/".join(rest[2:]), has_body)

    def _file(self, files: dict[str, bytes], name: str, has_body: bool) -> None:
        content = files[name]
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        if has_body:
            self.hub.requests.append(Request(name, first))
        stop = self.hub.stop_after.get(name) if has_body else None
        self._send(206 if first else 200, headers, content[first:], has_body, stop)

    def _send(
        self, status: int, headers: dict[str, str], body: bytes, has_body: bool, stop: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if has_body:
            self.wfile.write(body[:stop])
            self.wfile.flush()
        if stop is not None:
            self.hub.wait_for_end()
