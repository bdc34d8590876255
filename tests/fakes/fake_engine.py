"""A scripted engine process: it speaks real frames and does what its settings and the prompts say.

settings  start: ready (default) | fail | fault | die | stall | slow (after many signs of its ranks)
                 | die-after-first (ready once, then never again)
prompts   "count N"   N outputs, "1 ", "2 ", ... with the token ids 1..N
          "wait"      nothing, until it is cancelled
          "die"       SIGKILL
          "exit"      exit status 3
          "fault"     tells a cause, then exit status 1
          "hang"      neither reads nor sends any more
          "stuck"     sends no heartbeat any more, though it is alive
          "stop"      SIGSTOP
          "garbage"   sends something that is no message
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from ernie_wire.frames import receive_frame, send_frame
from ernie_wire.messages import (
    CODEC,
    Alive,
    Cancel,
    Fault,
    GenerateRequest,
    Heartbeat,
    Message,
    Output,
    Outputs,
    Ready,
    Shutdown,
    StartFailed,
    Starting,
)


class FakeEngine:
    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = threading.Lock()
        self._running: set[str] = set()
        self._is_stuck = False

    def send(self, message: Message) -> None:
        with self._lock:
            send_frame(self._socket, *CODEC.encode(message))

    def heartbeats(self) -> None:
        step = 0
        while True:
            running = len(self._running)
            self.send(Alive() if self._is_stuck else Heartbeat(running, 0, 100 - running, 100, step))
            step += 1
            time.sleep(0.05)

    def serve(self) -> None:
        while (frame := receive_frame(self._socket)) is not None:
            message = CODEC.decode(*frame)
            if isinstance(message, Shutdown):
                return
            if isinstance(message, Cancel):
                self._running.discard(message.request_id)
            if isinstance(message, GenerateRequest):
                self._generate(message)

    def _generate(self, request: GenerateRequest) -> None:
        word, _, number = (request.text_input or "").partition(" ")
        if word == "count":
            self._count(request, int(number))
        elif word == "wait":
            self._running.add(request.request_id)
            self.send(Outputs((Output(request.request_id, "waiting ", (7,), 1, num_output_tokens=1),)))
        elif word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif word == "exit":
            os._exit(3)
        elif word == "fault":
            self.send(Fault("rank 1 is lost"))
            os._exit(1)
        elif word == "hang":
            self._lock.acquire()
            time.sleep(1000)
        elif word == "stuck":
            self._is_stuck = True
        elif word == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif word == "garbage":
            with self._lock:
                send_frame(self._socket, {"kind": "Nonsense"})

    def _count(self, request: GenerateRequest, last: int) -> None:
        made = [
            Output(request.request_id, f"{number} ", (number,), 1, num_output_tokens=1)
            for number in range(1, last)
        ]
        made.append(
            Output(request.request_id, f"{last} ", (last,), 1, finish_reason="length", num_output_tokens=1)
        )
        for output in made:
            self.send(Outputs((output,)))


def start(engine: FakeEngine, settings: dict[str, str]) -> None:
    mode = settings.get("start", "ready")
    marker = Path(settings.get("marker", "/nonexistent"))
    if mode == "fail" or (mode == "die-after-first" and marker.exists()):
        engine.send(StartFailed("tensor lm_head.weight is missing in model.safetensors"))
        sys.exit(1)
    if mode == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "fault":
        engine.send(Fault("rank 1 is lost", signal.SIGKILL))
        sys.exit(1)
    if mode == "stall":
        time.sleep(1000)
    for _ in range(30 if mode == "slow" else 0):
        engine.send(Starting())
    if mode == "die-after-first":
        marker.touch()
    sys.path.append(str(Path(__file__).parents[1]))
    from fakes.descriptions import description  # this file is run as a program

    engine.send(Ready(description(architecture="Fake", root=f"/proc/{os.getpid()}")))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket-fd", type=int)
    parser.add_argument("--settings", type=json.loads)
    arguments = parser.parse_args()
    engine = FakeEngine(socket.socket(fileno=arguments.socket_fd))
    with contextlib.suppress(OSError):  # the stub has closed the socket: the end, as for a real engine
        start(engine, arguments.settings)
        threading.Thread(target=engine.heartbeats, daemon=True).start()
        engine.serve()


if __name__ == "__main__":
    main()
