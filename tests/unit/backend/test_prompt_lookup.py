"""Guesses by prompt lookup: what they are, when there are none, and that they change no answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.engine.engine import Engine
from ernie_backend.engine.prompt_lookup import PromptLookup
from ernie_backend.engine.request_state import RequestState
from ernie_backend.errors import StartError
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.settings.engine_settings import SchedulerLimits
from ernie_backend.settings.reader import read_settings
from ernie_backend.settings.speculative_config import Speculation, SpeculativeConfig
from ernie_kernels.sampling import SamplingFilters
from ernie_wire.messages import Output, join_outputs
from fakes.sequences import make_request, make_sequence, reference_sampler
from fakes.token_hash_model import TokenHashRunner
from support.paths import DENSE

VOCAB = 10
LENGTH = 60
TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=30)


def slow_proposal(tokens: list[int], config: SpeculativeConfig) -> tuple[int, ...]:
    """Return the definition: the longest match, of these the latest, and what follows it."""
    for length in range(config.prompt_lookup_max, config.prompt_lookup_min - 1, -1):
        for end in range(len(tokens) - 1, length - 1, -1):
            if length < len(tokens) and tokens[end - length : end] == tokens[-length:]:
                return tuple((tokens[end:] * config.num_speculative_tokens)[: config.num_speculative_tokens])
    return ()


@given(TOKENS, TOKENS, st.integers(1, 3), st.integers(0, 3), st.integers(1, 5))
def test_proposals_are_those_of_the_definition(
    prompt: list[int], answer: list[int], least: int, more: int, count: int
) -> None:
    config = SpeculativeConfig("ngram", count, least, least + more)
    sequence = make_sequence("r", tuple(prompt), len(answer))
    lookup = PromptLookup(sequence, config)
    for token in answer:
        assert lookup.propose() == slow_proposal(sequence.token_ids, config)
        sequence.append(token)


def test_wrong_guesses_pause_the_lookup_twice_as_long_each_time() -> None:
    sequence = make_sequence("r", (1, 2) * 3, 200)
    lookup = PromptLookup(sequence, SpeculativeConfig("ngram", prompt_lookup_max=4))
    proposed = []
    for index in range(150):
        drafts = lookup.propose()
        if drafts:
            proposed.append(index)
            lookup.report(len(drafts), 0)
        sequence.append(1 + index % 2)
    assert proposed == [0, 1, 3, 7, 15, 31, 63, 127]


def test_a_longer_match_than_the_wrong_one_does_not_wait_and_is_drafted_in_full() -> None:
    quoted = tuple(range(10, 20))
    sequence = make_sequence("r", (*quoted, 1, 10, 11), 200)
    lookup = PromptLookup(sequence, SpeculativeConfig("ngram", 5, 2, 4))
    for _ in range(4):  # a match of two tokens, wrong until it pauses for long
        lookup.report(len(lookup.propose()), 0)
        lookup._resumes_at = sequence.num_tokens
    lookup.report(5, 0)
    assert lookup.propose() == ()
    sequence.append(12)
    assert lookup.propose() == (13,)  # longer, and one draft after wrong ones
    sequence.append(13)
    assert lookup.propose() == (14, 15, 16, 17, 18)


def test_right_guesses_end_the_pause_and_grow_in_number() -> None:
    sequence = make_sequence("r", (1, 2) * 8, 200)
    lookup = PromptLookup(sequence, SpeculativeConfig("ngram", 8, 1, 32))
    lookup.report(8, 1)
    counts = []
    for index in range(4):
        drafts = lookup.propose()
        counts.append(len(drafts))
        lookup.report(len(drafts), len(drafts))
        sequence.append(1 + index % 2)
    assert counts == [2, 4, 8, 8]


def answered(request: RequestState, config: SpeculativeConfig | None) -> tuple[Output, int]:
    runner = TokenHashRunner(60, 2, VOCAB)
    limits = SchedulerLimits(4, 16, 9, speculative_config=config)
    engine = Engine(runner, BlockManager(60, 2), limits, reference_sampler(VOCAB))
    assert engine.submit(request) is None
    outputs: list[Output] = []
    while engine.has_work:
        outputs += engine.step()
        engine.check_integrity()
    assert engine.heartbeat.free_blocks == 60
    return join_outputs(outputs), engine.heartbeat.steps


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_answer_is_that_without_guesses_and_counts_them(temperature: float) -> None:
    def request(config: SpeculativeConfig | None) -> RequestState:
        made = make_request("r", (1, 2, 3), LENGTH, stream=False, speculation=config)
        filters = SamplingFilters(temperature, top_k=2)
        made.sequence.sampling = replace(made.sequence.sampling, filters=filters, seed=5)
        return made

    config = SpeculativeConfig("ngram", prompt_lookup_min=1)
    plain, num_steps = answered(request(None), None)
    guessed, fewer = answered(request(config), config)
    assert guessed.token_ids == plain.token_ids
    assert guessed.text == plain.text
    assert num_steps - fewer == guessed.num_accepted_drafts
    assert guessed.num_rejected_drafts > 0
    many = replace(config, disable_by_batch_size=1)
    assert answered(request(many), many)[0].num_accepted_drafts == guessed.num_accepted_drafts


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('{"method": "mtp", "model": "/m", "num_speculative_tokens": 1}', "mtp.*not supported yet"),
        ('{"method": "medusa"}', "method"),
        ('{"method": "ngram", "num_speculative_tokens": 0}', "num_speculative_tokens"),
        ('{"method": "ngram", "prompt_lookup_min": 7}', "prompt_lookup_min 7 above"),
        ('{"num_speculative_tokens": 3}', "no method"),
        ('{"tokens": 1}', "unknown key 'tokens'"),
        ("ngram", "JSON"),
    ],
)
def test_a_wrong_configuration_is_refused(text: str, word: str) -> None:
    with pytest.raises(StartError, match=f"^speculative_config .*{word}") as raised:
        read_settings({"model": str(DENSE), "speculative_config": text}, ModelConfig.from_directory(DENSE))
    assert ", or none" not in raised.value.message


def test_what_a_configuration_leaves_out_is_the_default() -> None:
    assert Speculation().read('{"method": "ngram"}') == SpeculativeConfig("ngram")
    assert Speculation().read("{}") is Speculation().read("None") is None
