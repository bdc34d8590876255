"""The socket through which frontends on the same machine get outputs: all of an engine step in one message.

Triton passes on one response at a time, and each wakes threads of three processes. So a frontend connects here,
gets the id of its connection, and names it in its requests (``deliver_to``): their outputs come through the
connection, and from Triton only the end of each request. Frontends that cannot connect get responses.

The address is abstract, so no file is left behind, and is refused to processes of other users, except root.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
import threading
from collections.abc import Callable

from ernie_wire.channel import Channel
from ernie_wire.messages import CODEC, Connected, Message, Output, Outputs

MAX_STALL_S = 30
"""A frontend that reads nothing for this long while outputs wait for it loses its connection. Their size says
less: the log probabilities of one long prompt may have hundreds of megabytes."""
_CREDENTIALS = struct.Struct("iII")  # unix(7): pid, user, group
_TIMEVAL = struct.Struct("ll")  # seconds, microseconds


class LocalFrontend:
    """A connection to a frontend; any thread may use it.

    Args:
        sock: the connection.
        on_lost: called with this object when the connection has ended, on a thread of its own.
    """

    def __init__(self, sock: socket.socket, on_lost: Callable[[LocalFrontend], object]) -> None:
        self.connection_id = secrets.token_hex(16)
        self._lock = threading.Lock()
        self._outputs: list[Output] = []  # guarded
        self._is_open = True
        self._on_lost = on_lost
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(MAX_STALL_S, 0))
        self._channel: Channel[Message] = Channel(sock, CODEC, "a frontend", has_writer=True)

    def open(self) -> None:
        """Tell the frontend the id of the connection, and notice its end from now on."""
        self._channel.send(Connected(self.connection_id))
        self._channel.listen(lambda _: None, lambda _: self._end())

    def put(self, request_id: str, output: Output) -> bool:
        """Add an output, under the client's id of its request; return whether the connection is open."""
        with self._lock:
            if self._is_open:
                self._outputs.append(output.renamed(request_id))
            return self._is_open

    def flush(self) -> None:
        """Send what was added, without waiting for the frontend."""
        with self._lock:  # also during the send, which keeps the order and does not wait
            outputs, self._outputs = self._outputs, []
            if outputs:
                self._channel.send(Outputs(tuple(outputs)))

    def close(self) -> None:
        """End the connection."""
        self._channel.break_off()

    def _end(self) -> None:
        with self._lock:
            self._is_open = False
        self._on_lost(self)


class LocalOutputs:
    """Listens for frontends until ``close``.

    Args:
        on_lost: called with a frontend whose connection has ended.
    """

    def __init__(self, on_lost: Callable[[LocalFrontend], object]) -> None:
        self.address = f"ernie-outputs-{secrets.token_hex(16)}"
        self._on_lost = on_lost
        self._frontends: dict[str, LocalFrontend] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(f"\0{self.address}")
        self._listener.listen()
        threading.Thread(target=self._accept, name="local-outputs", daemon=True).start()

    def frontend(self, connection_id: str) -> LocalFrontend | None:
        """Return the frontend with a connection, if it is open."""
        return self._frontends.get(connection_id)

    def close(self) -> None:
        """Refuse new connections, and end all."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        for frontend in list(self._frontends.values()):
            frontend.close()

    def _accept(self) -> None:
        with self._listener:
            while True:
                try:
                    sock, _ = self._listener.accept()
                except OSError:  # closed
                    return
                if _user_of(sock) in (os.geteuid(), 0):
                    frontend = LocalFrontend(sock, self._lose)
                    self._frontends[frontend.connection_id] = frontend
                    frontend.open()
                else:
                    sock.close()

    def _lose(self, frontend: LocalFrontend) -> None:
        self._frontends.pop(frontend.connection_id, None)
        self._on_lost(frontend)


def _user_of(sock: socket.socket) -> int:
    user: int = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[
        1
    ]
    return user
