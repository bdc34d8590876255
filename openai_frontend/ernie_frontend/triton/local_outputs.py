"""The connections to stubs on the same machine, each of which sends the outputs of a step in one message.

A request names its connection (``GenerateRequest.deliver_to``). Its call to Triton then has no responses, but
is needed all the same: it starts the request, reports why it is refused, and lasts until its end.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
from collections.abc import Callable

from ernie_frontend.triton.stream import TritonStream
from ernie_wire.frames import FrameError, take_frame
from ernie_wire.messages import CODEC, Connected, Outputs

_CONNECT_S = 1.0

logger = logging.getLogger(__name__)


class LocalOutputs(asyncio.Protocol):
    """A connection, by asyncio's protocol.

    Args:
        on_lost: called when it has ended.
    """

    def __init__(self, on_lost: Callable[[LocalOutputs], object]) -> None:
        self.connection_id = ""
        """Empty before the stub has sent it, and after the end."""
        self._is_connected = asyncio.Event()
        self._on_lost = on_lost
        self.streams: dict[str, TritonStream] = {}
        """By request id: what gets the outputs."""
        self._received = bytearray()
        self._transport: asyncio.BaseTransport | None = None

    async def connect(self, address: str) -> bool:
        """Connect to ``Status.outputs_socket``; return False if it is elsewhere, or refuses this user."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            sock.connect(f"\0{address}")  # does not wait, unlike over a network
            await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=sock)
            await asyncio.wait_for(self._is_connected.wait(), _CONNECT_S)
        except (OSError, asyncio.TimeoutError):
            sock.close()
            self.close()
        return bool(self.connection_id)

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take the messages that are complete; see ``asyncio.Protocol``."""
        self._received += data
        try:
            while (frame := take_frame(self._received)) is not None:
                message = CODEC.decode(*frame)
                if isinstance(message, Outputs):
                    self._pass_on(message)
                elif isinstance(message, Connected):
                    self.connection_id = message.connection_id
                    self._is_connected.set()
        except FrameError as error:
            logger.warning("a stub sent %s; its outputs come through Triton", error)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        """See ``asyncio.Protocol``."""
        self.connection_id = ""
        self._is_connected.set()
        self._on_lost(self)

    def _pass_on(self, message: Outputs) -> None:
        for output in message.outputs:
            stream = self.streams.get(output.request_id)
            if stream is not None:
                stream.deliver(output)


class LocalStubs:
    """The connections to the stubs of this machine, by model; an address is tried once.

    Args:
        on_lost: called with the model and its connection when that has ended.
    """

    def __init__(self, on_lost: Callable[[str, LocalOutputs], object]) -> None:
        self._on_lost = on_lost
        self._connections: dict[str, LocalOutputs] = {}
        self._addresses: dict[str, str] = {}
        self._untried: dict[str, str] = {}
        self._connecting = asyncio.Lock()

    def note_address(self, model: str, address: str) -> None:
        """Keep the ``Status.outputs_socket`` of a model; a new one is tried with the next request."""
        if address != self._addresses.get(model):
            self._addresses[model] = self._untried[model] = address

    async def connection(self, model: str) -> LocalOutputs | None:
        """Return the connection to a model's stub, or None if it is elsewhere."""
        if model in self._untried:
            async with self._connecting:  # the first requests of a model may come together
                if address := self._untried.get(model):
                    local = LocalOutputs(functools.partial(self._lose, model))
                    if await local.connect(address):
                        self._connections[model] = local
                self._untried.pop(model, None)
        return self._connections.get(model)

    def close(self) -> None:
        """End all connections."""
        for local in self._connections.values():
            local.close()

    def _lose(self, model: str, local: LocalOutputs) -> None:
        self._on_lost(model, local)
        if self._connections.get(model) is local:
            del self._connections[model], self._addresses[model]
