"""What prompt lookup (``--speculative-config``) is worth at batch 1, where answers copy and where they do not.

    .venv/bin/python benchmarks/prompt_lookup.py

The engine alone, without Triton and HTTP, with the shape of ERNIE-4.5-0.3B and random weights. Such a model
copies nothing, so its answers are replayed: the engine does all of its work, drafts included, and then each
token is replaced by that of a transcript. The transcripts (``benchmarks/transcripts``) were written for this
purpose: a summary with quotations, an edit of code, an explanation that copies nothing. ``misleading`` is made
of random tokens of a small vocabulary: nearly always there is a match, and what followed it is nearly always
wrong. A word with the space before it, a punctuation mark and a run of spaces are one token each.

Plain greedy decoding and prompt lookup take turns, one answer each. Printed are medians of the rounds, in
tokens a second by the clock on the wall or, with ``--cpu-time``, of processor time of all threads; the ratio is
that of each round. ``accepted`` is how many of the drafts were right.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine_shape import start_shape
from ernie_backend.devices.host import usable_cores
from ernie_backend.engine.engine import Runner
from ernie_backend.request.step_plan import SchedulePlan
from ernie_kernels.sampling import HeadOutput, TokenChoices
from ernie_wire.messages import GenerateRequest
from ernie_wire.sampling import SamplingParameters
from model_shapes import SHAPES

TRANSCRIPTS = Path(__file__).parent / "transcripts"
_SEPARATOR = "=== answer ===\n"
_TOKEN = re.compile(r" ?\w+|\s+|[^\w\s]")
_FIRST_ID = 10
_MISLEADING_TOKENS, _MISLEADING_LENGTH = 24, 400


class Transcript(NamedTuple):
    """A prompt and the answer to it, as token ids."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


class Replay:
    """A runner whose tokens are those of a transcript; one request at a time.

    Args:
        runner: computes the steps.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.transcript = Transcript((), ())
        self.steps = 0

    def run(self, plan: SchedulePlan, choices: TokenChoices | None = None) -> HeadOutput:
        """See ``ernie_backend.engine.engine.Runner``."""
        computed = self._runner.run(plan, choices)
        self.steps += 1
        (chunk,) = plan.chunks
        # The last row of the chunk answers with this token of the answer, the rows before it with those before.
        end = max(0, chunk.start + len(chunk.token_ids) + 1 - len(self.transcript.prompt))
        answer = self.transcript.answer[max(0, end - chunk.num_sampled) : end]
        tokens = np.zeros(chunk.num_sampled, np.int64)  # after the last token of the transcript none is read
        tokens[: len(answer)] = answer
        return HeadOutput(computed.logits, tokens)


def read_transcript(path: Path) -> Transcript:
    """Return a transcript; equal words have equal ids."""
    prompt, answer = (_TOKEN.findall(part) for part in path.read_text(encoding="utf-8").split(_SEPARATOR))
    ids = {text: _FIRST_ID + number for number, text in enumerate(dict.fromkeys([*prompt, *answer]))}
    return Transcript(tuple(map(ids.__getitem__, prompt)), tuple(map(ids.__getitem__, answer)))


def misleading_transcript() -> Transcript:
    """Return random tokens, whose few kinds make every pair of them occur before."""
    chosen = random.Random(1)
    tokens = [_FIRST_ID + chosen.randrange(_MISLEADING_TOKENS) for _ in range(2 * _MISLEADING_LENGTH)]
    return Transcript(tuple(tokens[:_MISLEADING_LENGTH]), tuple(tokens[_MISLEADING_LENGTH:]))


class Sample(NamedTuple):
    """An answer: tokens a second, engine steps, drafts that were checked, and those that were right."""

    rate: float
    steps: int
    drafts: int
    accepted: int


class LookupUnderTest:
    """An engine in this process with prompt lookup, which requests may do without."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._clock = time.process_time if arguments.cpu_time else time.perf_counter
        started = start_shape(
            arguments.shape,
            quantization=arguments.quantization,
            threads=str(arguments.threads),
            max_num_seqs="4",
            max_model_len="4096",
            num_gpu_blocks_override="128",
            speculative_config=json.dumps({"method": "ngram", **arguments.config}),
        )
        self._engine = started.engine
        self._with_lookup = started.input_processor
        self._plain = replace(started.input_processor, speculative_config=None)
        self._replay = Replay(self._engine._runner)  # replaced for the benchmark only
        self._engine._runner = self._replay
        self._count = 0

    def answer(self, transcript: Transcript, *, has_lookup: bool) -> Sample:
        """Have an answer made; the prompt's steps are not counted."""
        self._count += 1
        self._replay.transcript = transcript
        request = GenerateRequest(
            request_id=f"r{self._count}",
            input_ids=transcript.prompt,
            stream=True,
            sampling=SamplingParameters(max_tokens=len(transcript.answer), temperature=0.0, ignore_eos=True),
        )
        self._engine.submit((self._with_lookup if has_lookup else self._plain).process(request))
        outputs = list(self._engine.step())
        while not outputs:
            outputs += self._engine.step()
        self._replay.steps = 0
        begin = self._clock()
        while self._engine.has_work:
            outputs += self._engine.step()
        taken = self._clock() - begin
        if [each for output in outputs for each in output.token_ids] != list(transcript.answer):
            raise SystemExit("the engine's answer is not the transcript's")
        accepted = sum(output.num_accepted_drafts for output in outputs)
        rejected = sum(output.num_rejected_drafts for output in outputs)
        return Sample((len(transcript.answer) - 1) / taken, self._replay.steps, accepted + rejected, accepted)


def report(name: str, plain: list[Sample], lookup: list[Sample]) -> None:
    """Print the medians of a transcript."""
    ratios = [b.rate / a.rate for a, b in zip(plain, lookup, strict=True)]
    rates = [statistics.median(each.rate for each in samples) for samples in (plain, lookup)]
    last = lookup[-1]
    print(
        f"{name:12} plain {rates[0]:7.1f} tok/s   lookup {rates[1]:7.1f}   "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})   "
        f"accepted {last.accepted} of {last.drafts}   tokens a step {plain[-1].steps / last.steps:.2f}",
        flush=True,
    )


def main() -> None:
    """Measure, and print one line for each transcript."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="0.3b")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--quantization", default="wint8")
    parser.add_argument(
        "--config", type=json.loads, default={}, help="further keys of --speculative-config, JSON"
    )
    parser.add_argument("--cpu-time", action="store_true", help="processor time of all threads")
    parser.add_argument("--tokens", type=int, help="of each answer, at most; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    engine = LookupUnderTest(arguments)
    transcripts = {path.stem: read_transcript(path) for path in sorted(TRANSCRIPTS.glob("*.txt"))}
    transcripts["misleading"] = misleading_transcript()
    for name, whole in transcripts.items():
        transcript = Transcript(whole.prompt, whole.answer[: arguments.tokens])
        plain, lookup = [], []
        for _ in range(arguments.rounds):
            plain.append(engine.answer(transcript, has_lookup=False))
            lookup.append(engine.answer(transcript, has_lookup=True))
        report(name, plain, lookup)


if __name__ == "__main__":
    main()
