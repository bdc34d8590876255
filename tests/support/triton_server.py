"""A real tritonserver for the end-to-end tests, on free loopback ports, and clients of it.

The server is the launcher that ``make setup`` installs. Its log goes to a file, whose end is in the message
of whatever assertion fails while it starts.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import tritonclient.grpc as grpc_client

from ernie_wire import tensors
from ernie_wire.tensors import config_pbtxt
from support.free_ports import free_ports
from support.paths import ROOT
from support.serving import command_line
from support.waiting import eventually

LAUNCHER = Path(sys.prefix) / "bin" / "tritonserver"
EMBEDDED = ROOT / "model_repository" / "ernie-tiny"
WAIT_S = 100.0
NUMPY_TYPES: dict[str, Any] = {"TYPE_STRING": np.object_, "TYPE_BOOL": np.bool_, "TYPE_INT32": np.int32}
KSERVE_TYPES = {"TYPE_STRING": "BYTES", "TYPE_BOOL": "BOOL", "TYPE_INT32": "INT32"}


def add_entry(repository: Path, name: str, **parameters: str) -> Path:
    """Make an entry of a model repository with these parameters; return its directory."""
    entry = repository / name
    shutil.copytree(EMBEDDED / "1", entry / "1", ignore=shutil.ignore_patterns("__pycache__"))
    (entry / "config.pbtxt").write_text(config_pbtxt(name, parameters))
    return entry


@dataclass
class Stream:
    """A gRPC stream with one request; responses come as they are made."""

    client: Any
    responses: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)

    def next(self) -> dict[str, Any]:
        """Return the outputs of the next response; raise InferenceServerException for an error."""
        result, error = self.responses.get(timeout=WAIT_S)
        if error is not None:
            raise error
        return {output.name: _python(result.as_numpy(output.name)) for output in result.get_response().outputs}

    def rest(self) -> Iterator[dict[str, Any]]:
        """Yield the outputs of all responses up to the one with a finish reason."""
        while True:
            outputs = self.next()
            yield outputs
            if outputs["finish_reason"]:
                return

    def error(self) -> str:
        """Return the error that ends the stream, after whatever comes before it."""
        while True:
            _, error = self.responses.get(timeout=WAIT_S)
            if error is not None:
                return str(error.message())

    def close(self, *, cancel: bool = False) -> None:
        """End the stream; with ``cancel`` as a client that goes away."""
        self.client.stop_stream(cancel_requests=cancel)
        self.client.close()


class TritonServer:
    """A tritonserver that this test run started."""

    def __init__(self, repository: Path, log: Path, *further: str) -> None:
        self.http_port, self.grpc_port, metrics_port = free_ports(3)
        self.log = log
        arguments = [f"--model-repository={repository}", *further]
        arguments += ["--http-address=127.0.0.1", "--grpc-address=127.0.0.1"]
        arguments += [f"--http-port={self.http_port}", f"--grpc-port={self.grpc_port}"]
        arguments += [f"--metrics-port={metrics_port}", "--metrics-address=127.0.0.1"]
        environment = {name: value for name, value in os.environ.items() if name != "ERNIE_MODEL_ROOT"}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [str(LAUNCHER), *arguments], stdout=output, stderr=output, env=environment
            )
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.http_port}", trust_env=False, timeout=WAIT_S
        )

    def await_ready(self) -> None:
        """Wait until the server and its models are ready."""
        eventually(self._is_ready, lambda: f"tritonserver is not ready:\n{self.log.read_text()[-4000:]}")

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, f"tritonserver ended:\n{self.log.read_text()[-4000:]}"
        try:
            return self._http.get("/v2/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def generate(self, body: dict[str, Any], model: str = "ernie-tiny") -> httpx.Response:
        """POST to the generate endpoint."""
        return self._http.post(f"/v2/models/{model}/generate", json=body)

    def generate_stream(self, body: dict[str, Any], model: str = "ernie-tiny") -> list[dict[str, Any]]:
        """POST to the generate_stream endpoint and return the events."""
        answer = self._http.post(f"/v2/models/{model}/generate_stream", json={**body, "stream": True})
        lines = [line for line in answer.text.split("\n\n") if line]
        return [json.loads(line.removeprefix("data: ")) for line in lines]

    def stream(self, inputs: dict[str, Any], model: str = "ernie-tiny") -> Stream:
        """Send one request on a gRPC stream of its own."""
        client = grpc_client.InferenceServerClient(f"127.0.0.1:{self.grpc_port}")
        stream = Stream(client)
        client.start_stream(lambda result, error: stream.responses.put((result, error)))
        client.async_stream_infer(model, infer_inputs(inputs))
        return stream

    def control(self, op: str, model: str = "ernie-tiny", **fields: str) -> dict[str, Any]:
        """Send a control and return its answer."""
        stream = self.stream({"control": json.dumps({"op": op, **fields})}, model)
        answer: dict[str, Any] = json.loads(stream.next()["control_output"])
        stream.close()
        return answer

    @contextlib.contextmanager
    def verbose_log(self) -> Iterator[io.StringIO]:
        """Have the server tell what becomes of each call; gives what it has told, filled in at the end."""
        told = io.StringIO()
        with grpc_client.InferenceServerClient(f"127.0.0.1:{self.grpc_port}") as client:
            begin = self.log.stat().st_size
            client.update_log_settings({"log_verbose_level": 1})
            yield told
            client.update_log_settings({"log_verbose_level": 0})
            told.write(self.log.read_bytes()[begin:].decode(errors="replace"))

    def unload(self, model: str, within_s: float) -> None:
        """Unload a model, in explicit control mode, and wait until nothing of it is left in use."""
        with grpc_client.InferenceServerClient(f"127.0.0.1:{self.grpc_port}") as client:
            client.unload_model(model)
            deadline = time.monotonic() + within_s
            while (state := _state(client, model)) != ("UNAVAILABLE", "unloaded"):
                assert time.monotonic() < deadline, state
                time.sleep(0.05)

    def load(self, model: str) -> None:
        """Load a model, in explicit control mode."""
        with grpc_client.InferenceServerClient(f"127.0.0.1:{self.grpc_port}") as client:
            client.load_model(model)

    def descendants(self, word: str = "") -> list[psutil.Process]:
        """Return the processes below the server with ``word`` in their command line."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in below if any(word in argument for argument in command_line(process))]

    def shared_memory(self) -> set[Path]:
        """Return the files of /dev/shm that the server and its stubs have mapped."""
        processes = [psutil.Process(self.process.pid), *self.descendants()]
        maps = [entry.path for process in processes for entry in process.memory_maps(grouped=False)]
        return {Path(path) for path in maps if path.startswith("/dev/shm/")}

    def terminate(self) -> int:
        """SIGTERM, as an orchestrator does, and wait for the end."""
        self._http.close()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)

    def close(self) -> None:
        """End the server if the test has not."""
        if self.process.poll() is None:
            self.terminate()


def _state(client: Any, model: str) -> tuple[str, str]:
    (found,) = [entry for entry in client.get_model_repository_index().models if entry.name == model]
    return found.state, found.reason


def infer_inputs(values: dict[str, Any]) -> list[Any]:
    """Return values by the name of their tensor as tritonclient's inputs."""
    datatypes = {spec.name: spec.datatype for spec in tensors.INPUTS}
    return [_input(name, datatypes[name], value) for name, value in values.items()]


def _input(name: str, datatype: str, value: object) -> Any:
    elements: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
    encoded = [element.encode() if isinstance(element, str) else element for element in elements]
    array = np.array(encoded, dtype=NUMPY_TYPES[datatype])
    made = grpc_client.InferInput(name, list(array.shape), KSERVE_TYPES[datatype])
    made.set_data_from_numpy(array)
    return made


def _python(array: Any) -> Any:
    if array.dtype == np.object_:
        return array[0].decode()
    return array.tolist()
