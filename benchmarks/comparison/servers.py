"""Servers with an OpenAI API: started, asked by ``load.py``, and looked at for their memory."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

import load
from comparison import rows
from comparison.contenders import NotRunError
from comparison.processes import Family

READY_S = 400.0
MODEL = "default"
VOCAB = 30000


@dataclass(frozen=True)
class Command:
    """What starts a server.

    Attributes:
        arguments: its command line.
        port: where it listens.
        environment: variables that it needs.
    """

    arguments: Sequence[str]
    port: int
    environment: Mapping[str, str]


class Server:
    """A running server, ready to answer.

    Attributes:
        facts: ``ready_s``, from its start to the first good answer of ``/health``; ``resident_bytes`` then,
            and ``loaded_bytes`` after the last sample.
        family: its processes.
        warms_up: False, since the load has a request to warm up.

    Raises:
        NotRunError: it is not installed, or did not become ready.
    """

    def __init__(self, command: Command, log: Path) -> None:
        if not Path(command.arguments[0]).exists():
            raise NotRunError("not installed (benchmarks/peers/install.sh)")
        self._url = f"http://127.0.0.1:{command.port}"
        environment = {**os.environ, "PYTHONPATH": "", **command.environment}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed server has its bytecode
        begin = time.monotonic()
        with log.open("w") as output:
            self.family = Family(
                command.arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        self.families: tuple[Family, ...] = (self.family,)
        while not self._is_ready():
            if self.family.program.poll() is not None or time.monotonic() > begin + READY_S:
                self.family.end()
                raise NotRunError(f"did not become ready ({log.name})")
            time.sleep(0.02)
        ready_s, self.warms_up = time.monotonic() - begin, False
        self.facts: dict[str, Any] = {"ready_s": ready_s, "resident_bytes": self.family.resident_bytes()}

    def _is_ready(self) -> bool:
        try:
            return httpx.get(self._url + "/health", timeout=2, trust_env=False).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def measure(self, row: rows.Row) -> dict[str, float]:
        """Return tokens a second, and milliseconds to the first token and between tokens."""
        workload = load.Workload(
            url=self._url,
            model=MODEL,
            clients=row.size,
            requests=row.size * row.steps,
            warm_up=1,
            prompt_tokens=rows.HTTP_PROMPT,
            vocab=VOCAB,
            max_tokens=rows.HTTP_ANSWER,
            prompt=None,
            seed=time.monotonic_ns(),
        )
        report = asyncio.run(load.run(workload))
        if report["failed"]:
            raise NotRunError(f"{report['failed']} requests failed: {report['errors'][0][:100]}")
        self.facts["loaded_bytes"] = self.family.resident_bytes()
        first, between = report["ttft_ms"], report["inter_token_ms"]
        return {
            "tokens_per_s": report["output_tokens_per_s"],
            "first_p50_ms": first["p50"],
            "first_p99_ms": first["p99"],
            "between_p50_ms": between["p50"],
            "between_p99_ms": between["p99"],
            "between_max_ms": between["p100"],
        }


def free_port() -> int:
    """Return a port that nothing uses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def our_command(peers: Path, threads: int, cache: str = "off") -> Command:
    """Return what serves the checkpoint in wint8; ``cache``: the directory of quantized weights, or off."""
    port = free_port()
    flags = ["--model", str(peers / "checkpoint"), "--host", "127.0.0.1", "--port", str(port)]
    flags += ["--quantization", "wint8", "--max-model-len", "4096", "--max-num-seqs", "64"]
    flags += ["--served-model-name", MODEL, "--weight-cache", cache, "--threads", str(threads)]
    return Command([sys.executable, "-m", "ernie_cli", "serve", *flags], port, {})


def _llama_command(peers: Path, threads: int) -> Command:
    port = free_port()
    flags = ["-m", str(peers / "dense-q8_0.gguf"), "--host", "127.0.0.1", "--port", str(port)]
    flags += ["-t", str(threads), "-tb", str(threads), "-np", "32", "-c", "10240", "-b", "2048", "-ub", "512"]
    flags += ["--no-cache-prompt"]
    return Command([str(peers / "build" / "bin" / "llama-server"), *flags], port, {})


def _vllm_command(peers: Path, _threads: int) -> Command:
    port = free_port()
    flags = ["--model", str(peers / "checkpoint"), "--host", "127.0.0.1", "--port", str(port)]
    flags += ["--served-model-name", MODEL, "--load-format", "dummy", "--skip-tokenizer-init"]
    flags += ["--dtype", "bfloat16", "--max-model-len", "4096", "--max-num-seqs", "64"]
    flags += ["--max-num-batched-tokens", "2048", "--no-enable-prefix-caching"]
    python = str(peers / "vllm" / "bin" / "python")
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}
    environment |= {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    return Command([python, "-m", "vllm.entrypoints.openai.api_server", *flags], port, environment)


def starters(peers: Path, threads: int, logs: Path) -> dict[str, Callable[[], Server]]:
    """Return what starts each server, by its name in ``rows``."""
    return {
        rows.OUR_SERVER: lambda: Server(our_command(peers, threads), logs / "serve.log"),
        rows.LLAMA_SERVER: lambda: Server(_llama_command(peers, threads), logs / "llama-server.log"),
        rows.VLLM_SERVER: lambda: Server(_vllm_command(peers, threads), logs / "vllm-server.log"),
    }
