"""OpenVINO through optimum-intel, int8 weights: the cases of the comparison.

    W/openvino/bin/python benchmarks/peers/openvino_cases.py W/checkpoint/config.json DIRECTORY THREADS

A Llama of the 0.3B shape (OpenVINO's exporter knows no ERNIE-4.5; the layers are the same) with random weights
is exported into DIRECTORY once. Activations are quantized as its CPU plugin chooses.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from case_loop import CaseLoop

DECODE_PROMPT = 32


def export(shape: dict[str, Any], directory: Path) -> None:
    """Write a model of ``shape`` with int8 weights."""
    from optimum.intel import OVModelForCausalLM
    from transformers import LlamaConfig, LlamaForCausalLM

    original = directory / "original"
    taken = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "tie_word_embeddings",
        "rope_theta",
    )
    config = LlamaConfig(**{name: shape[name] for name in taken}, max_position_embeddings=8192)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(original)
    model = OVModelForCausalLM.from_pretrained(original, export=True, load_in_8bit=True)
    model.save_pretrained(directory / "int8")


class Times:
    """A stopping criterion that never stops, and notes when each token was ready."""

    def __init__(self) -> None:
        self.list: list[float] = []

    def __call__(self, input_ids: torch.Tensor, _scores: torch.Tensor, **_: object) -> torch.Tensor:
        """Return False for every sequence."""
        self.list.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


class OpenVinoModel:
    """The model, and the cases that it runs."""

    def __init__(self, directory: Path, threads: int) -> None:
        from optimum.intel import OVModelForCausalLM

        torch.set_num_threads(threads)
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(threads)}
        self._model = OVModelForCausalLM.from_pretrained(directory / "int8", ov_config=settings)
        self._random = torch.Generator().manual_seed(0)

    def _generate(self, batch: int, tokens: int, new_tokens: int) -> list[float]:
        """Return when generation began and when each token was ready."""
        from transformers import StoppingCriteriaList

        ids = torch.randint(300, 100000, (batch, tokens), generator=self._random)
        times = Times()
        start = time.perf_counter()
        self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([times]),
        )
        return [start, *times.list]

    def decode(self, batch: int, steps: int) -> float:
        """Return output tokens a second of ``batch`` sequences."""
        times = self._generate(batch, DECODE_PROMPT, steps + 2)
        return batch * steps / (times[-1] - times[2])

    def prefill(self, tokens: int, _steps: int) -> float:
        """Return prompt tokens a second of one prompt."""
        start, first = self._generate(1, tokens, 1)
        return tokens / (first - start)


def main() -> None:
    """Start the model and answer cases."""
    loop, directory = CaseLoop(), Path(sys.argv[2])
    if not (directory / "int8").exists():
        export(json.loads(Path(sys.argv[1]).read_text()), directory)
    start = time.perf_counter()
    model = OpenVinoModel(directory, int(sys.argv[3]))
    import openvino

    facts = {"version": f"OpenVINO {openvino.__version__}", "start_s": time.perf_counter() - start}
    loop.run(facts, {"decode": model.decode, "prefill": model.prefill})


if __name__ == "__main__":
    main()
