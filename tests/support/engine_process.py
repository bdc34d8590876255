"""A real engine process of the dense oracle checkpoint, and our end of its socket."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from types import TracebackType

from ernie_wire.channel import Channel
from ernie_wire.messages import CODEC, Heartbeat, Message, Output, Outputs, Ready, Starting
from support.paths import DENSE

TIMEOUT_S = 60.0


class Engine:
    """An engine process and our end of its socket; as a context manager it leaves nothing of a failed test."""

    def __init__(self, **parameters: str) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(TIMEOUT_S)
        self._channel = Channel(self.socket, CODEC, "the engine")
        settings = {
            "model": str(DENSE),
            "device": "cpu",
            "dtype": "float32",
            "threads": "1",
            **parameters,
        }
        command = [sys.executable, "-m", "ernie_backend", "--socket-fd", str(theirs.fileno())]
        self.process = subprocess.Popen(
            [*command, "--settings", json.dumps(settings)],
            pass_fds=(theirs.fileno(),),
            stderr=subprocess.PIPE,
            text=True,
        )
        theirs.close()
        self._log: str | None = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.process.kill()
        self.close()

    def send(self, message: Message) -> None:
        self._channel.send(message)

    def receive(self) -> Message:
        message = self._channel.receive()
        assert message is not None, "the engine closed the socket"
        return message

    def ready(self) -> Ready:
        while isinstance(message := self.receive(), Starting):
            pass
        assert isinstance(message, Ready), message
        return message

    def heartbeat(self) -> Heartbeat:
        while not isinstance(message := self.receive(), Heartbeat):
            pass
        return message

    def outputs_until(self, count: int) -> dict[str, list[Output]]:
        """Return all outputs until ``count`` requests have ended."""
        outputs: dict[str, list[Output]] = {}
        while sum(each[-1].is_last for each in outputs.values()) < count:
            message = self.receive()
            for output in message.outputs if isinstance(message, Outputs) else ():
                outputs.setdefault(output.request_id, []).append(output)
        return outputs

    def close(self) -> str:
        """Close the socket, wait for the end, return the log; again: the log."""
        self.socket.close()
        if self._log is None:
            _, self._log = self.process.communicate(timeout=TIMEOUT_S)
        return self._log
