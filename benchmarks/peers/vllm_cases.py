"""vLLM on the CPU in this process, bfloat16 and random weights: the cases of the comparison.

    W/vllm/bin/python benchmarks/peers/vllm_cases.py DIRECTORY

DIRECTORY has a config.json. Steps of the engine are timed as those of ours are: decode once every sequence has
its first token, prefill from the request to its first token.
"""

from __future__ import annotations

import os
import random
import sys
import time

from case_loop import CaseLoop

DECODE_PROMPT = 32
os.environ.update(
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_NUM_OF_RESERVED_CPU="0",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_NO_USAGE_STATS="1",
    HF_HUB_OFFLINE="1",
)


class VllmEngine:
    """The engine, and the cases that it runs."""

    def __init__(self, directory: str) -> None:
        from vllm import LLM, SamplingParams

        self._parameters = SamplingParams
        self._engine = LLM(
            model=directory,
            load_format="dummy",
            skip_tokenizer_init=True,
            dtype="bfloat16",
            max_model_len=4096,
            max_num_seqs=64,
            max_num_batched_tokens=2048,
            enable_prefix_caching=False,
        ).llm_engine
        self._count = 0
        self._random = random.Random(0)

    def _submit(self, tokens: int, max_tokens: int) -> str:
        self._count += 1
        request_id = f"r{self._count}"
        prompt = {"prompt_token_ids": [self._random.randrange(3, 100000) for _ in range(tokens)]}
        sampling = self._parameters(
            temperature=0, max_tokens=max_tokens, min_tokens=max_tokens, ignore_eos=True, detokenize=False
        )
        self._engine.add_request(request_id, prompt, sampling)
        return request_id

    def decode(self, batch: int, steps: int) -> float:
        """Return output tokens a second of ``batch`` sequences."""
        lengths = dict.fromkeys([self._submit(DECODE_PROMPT, 4 * steps + 64) for _ in range(batch)], 0)

        def step() -> None:
            for output in self._engine.step():
                lengths[output.request_id] = len(output.outputs[0].token_ids)

        while min(lengths.values()) < 1:
            step()
        step()
        before, start = sum(lengths.values()), time.perf_counter()
        for _ in range(steps):
            step()
        rate = (sum(lengths.values()) - before) / (time.perf_counter() - start)
        self._engine.abort_request(list(lengths))
        while self._engine.has_unfinished_requests():
            self._engine.step()
        return rate

    def prefill(self, tokens: int, _steps: int) -> float:
        """Return prompt tokens a second of one prompt."""
        start = time.perf_counter()
        self._submit(tokens, 1)
        while self._engine.has_unfinished_requests():
            self._engine.step()
        return tokens / (time.perf_counter() - start)


def main() -> None:
    """Start the engine and answer cases."""
    loop, start = CaseLoop(), time.perf_counter()
    engine = VllmEngine(sys.argv[1])
    import vllm

    facts = {"version": f"vLLM {vllm.__version__}", "start_s": time.perf_counter() - start}
    loop.run(facts, {"decode": engine.decode, "prefill": engine.prefill})


if __name__ == "__main__":
    main()
