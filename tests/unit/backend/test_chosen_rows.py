"""Which rows' tokens the backend chooses: by request, and the answers are those of the host."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ernie_backend.engine.engine import Engine
from ernie_backend.engine.request_state import RequestState
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.request.step_plan import SchedulePlan
from ernie_backend.runner.logits_processors import Penalties
from ernie_backend.runner.sampling_rows import SamplingRow
from ernie_backend.settings.engine_settings import SchedulerLimits
from ernie_kernels.sampling import HeadOutput, SamplingFilters, TokenChoices
from ernie_wire.messages import Output, join_outputs
from fakes.sequences import make_request, reference_sampler
from fakes.token_hash_model import NoiseRunner

VOCAB = 10


class _Counting(NoiseRunner):
    """Counts the rows of logits, and the tokens, that come to the host."""

    num_logits = num_tokens = 0

    def run(self, plan: SchedulePlan, choices: TokenChoices | None = None) -> HeadOutput:
        """See ``TokenHashRunner``."""
        found = super().run(plan, choices)
        self.num_logits += len(found.logits)
        self.num_tokens += len(found.tokens)
        return found


def _requests() -> dict[str, RequestState]:
    """Requests of every kind; those that need no more than temperature and filters come first."""
    made = {
        name: make_request(name, tuple(range(1, 4 + index)), 12, stream=False)
        for index, name in enumerate(
            ("greedy", "sampled", "drafted", "penalties", "logprobs", "prompt_logprobs", "both")
        )
    }
    filters = SamplingFilters(1.5, min_p=0.1, top_k=7, top_p=0.9)
    for index, name in enumerate(made):
        if name not in ("greedy", "prompt_logprobs"):
            sequence = made[name].sequence
            sequence.sampling = replace(sequence.sampling, filters=filters, seed=index)
    made["penalties"].sequence.processors = (Penalties((1, 2), repetition=1.2, frequency=0.2, presence=0.1),)
    for name in ("logprobs", "both"):
        made[name].sequence.sampling = replace(made[name].sequence.sampling, logprobs=2)
    for name in ("prompt_logprobs", "both"):
        made[name].sequence.sampling = replace(made[name].sequence.sampling, prompt_logprobs=1)
    return made


def _answers(requests: dict[str, RequestState]) -> tuple[dict[str, Output], _Counting]:
    runner = _Counting(200, 2, VOCAB)
    engine = Engine(runner, BlockManager(200, 2), SchedulerLimits(8, 24, 9), reference_sampler(VOCAB))
    for request in requests.values():
        assert engine.submit(request) is None
    outputs: dict[str, list[Output]] = {name: [] for name in requests}
    while engine.has_work:
        for name in {"drafted"} & requests.keys():
            requests[name].sequence.draft_ids = (3, 5)
        for output in engine.step():
            outputs[output.request_id].append(output)
    return {name: join_outputs(each) for name, each in outputs.items()}, runner


def test_only_rows_that_need_the_host_bring_logits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mixed, counts = _answers(_requests())
    assert counts.num_logits > 12 * 4
    assert counts.num_tokens > 12 * 3
    plain = ("greedy", "sampled", "drafted")
    _, counts = _answers({name: each for name, each in _requests().items() if name in plain})
    assert (counts.num_logits, counts.num_tokens > 12 * 3) == (0, True)
    _, counts = _answers({name: each for name, each in _requests().items() if name not in plain})
    assert counts.num_tokens == 0
    monkeypatch.setattr(SamplingRow, "needs_host", True)
    on_host, counts = _answers(_requests())
    assert counts.num_tokens == 0
    assert mixed == on_host
    assert not [name for name, each in mixed.items() if each.error]
