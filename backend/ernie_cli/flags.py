"""The flags of ``ernie-triton serve``, spelled and meant as FastDeploy's, each defined once.

An option left out is None and is not passed on: the default is the engine's own. This module must not know
what is done with a value.
"""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[str, typer.Option(help="directory of the model: config.json, weights, tokenizer")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="port of the OpenAI API; 0 takes a free one")]
Host = Annotated[str, typer.Option(help="address the OpenAI API listens on")]
ApiKey = Annotated[
    list[str] | None,
    typer.Option(help="key that /v1 asks for; repeatable; default $FD_API_KEY", show_default=False),
]
ServedModelName = Annotated[
    str | None, typer.Option(help="the only model name that requests may give, besides 'default'")
]
TensorParallelSize = Annotated[
    int | None,
    typer.Option("--tensor-parallel-size", "-tp", min=1, help="devices that share the model [1]"),
]
MaxModelLen = Annotated[int | None, typer.Option(min=1, help="most tokens of prompt and answer together")]
MaxNumSeqs = Annotated[int | None, typer.Option(min=1, help="most requests worked on at once")]
MaxNumBatchedTokens = Annotated[int | None, typer.Option(min=1, help="most tokens in one step of the engine")]
Quantization = Annotated[
    str | None,
    typer.Option(help="weight format, e.g. wint8; default: as in the checkpoint"),
]
GpuMemoryUtilization = Annotated[
    float | None,
    typer.Option(min=0.01, max=1.0, help="share of the device's memory; on a CPU, of the free memory"),
]
Dtype = Annotated[str | None, typer.Option(help="float32 or bfloat16")]
ActivationDtype = Annotated[
    str | None,
    typer.Option(help="activations of quantized layers: float32, int16, int8"),
]
Device = Annotated[str | None, typer.Option(help="cpu, xpu or reference")]
TritonHttpPort = Annotated[int | None, typer.Option(min=1, max=65535, help="default: a free loopback port")]
TritonGrpcPort = Annotated[int | None, typer.Option(min=1, max=65535, help="default: a free loopback port")]
TritonMetricsPort = Annotated[int | None, typer.Option(min=1, max=65535, help="default: a free loopback port")]
MetricsPort = Annotated[str | None, typer.Option(help="no effect: see --triton-metrics-port")]
EngineWorkerQueuePort = Annotated[str | None, typer.Option(help="no effect: there is no such queue")]
CacheQueuePort = Annotated[str | None, typer.Option(help="no effect: there is no such queue")]
