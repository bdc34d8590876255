"""The trail of a sampling field from a request's body to the kernels: what it does, and how few files know it.

docs/architecture.md has the recipe for a new field.
"""

from __future__ import annotations

import re
from dataclasses import fields
from typing import get_type_hints

import numpy as np
import pytest

from ernie_backend.chat.template import ChatTemplate
from ernie_backend.chat.tokenizer import Tokenizer
from ernie_backend.config.generation_config import GenerationConfig
from ernie_backend.engine.input_processor import InputProcessor
from ernie_backend.runner.sampler import Sampler
from ernie_backend.runner.sampling_rows import SamplingRow
from ernie_frontend.schema.chat import ChatRequest
from ernie_frontend.schema.common import GenerationFields
from ernie_frontend.schema.unsupported import UNSUPPORTED_IN_CHAT, UNSUPPORTED_IN_COMPLETIONS
from ernie_frontend.translate.generate_request import sampling_parameters
from ernie_kernels.cpu import CpuOps
from ernie_kernels.reference import ReferenceOps
from ernie_kernels.sampling import TokenSampler
from ernie_wire.messages import GenerateRequest
from ernie_wire.sampling import SamplingParameters
from support.paths import DENSE, ROOT

SOURCES = [
    path
    for folder in ("backend", "kernels", "openai_frontend")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".pyi", ".hpp", ".cpp"}
]
MOST_FILES = 5
TOKENIZER = Tokenizer.from_directory(DENSE)
MODEL = InputProcessor(
    TOKENIZER, ChatTemplate.from_directory(DENSE), GenerationConfig(), 64, TOKENIZER.vocab_size
)


def _files(name: str) -> list[str]:
    """Return the source files in which a word stands."""
    word = re.compile(rf"\b{name}\b")
    return sorted(str(path.relative_to(ROOT)) for path in SOURCES if word.search(path.read_text()))


def test_a_filter_is_known_to_six_files() -> None:
    assert _files("min_p") == [
        "backend/stub/ernie_wire/sampling.py",
        "kernels/cpu/kernels.hpp",
        "kernels/cpu/sampling.hpp",
        "kernels/ernie_kernels/paddle/sampling.py",
        "kernels/ernie_kernels/sampling.py",
        "openai_frontend/ernie_frontend/schema/common.py",
    ]


OF_MORE_MEANINGS = {
    "max_tokens",
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "logprobs",
    "structured_outputs",
}
"""Words that stand for something else too, such as modules, and ``prompt_logprobs``, which comes back."""


@pytest.mark.parametrize(
    "name",
    sorted({field.name for field in fields(SamplingParameters)} - OF_MORE_MEANINGS - {"prompt_logprobs"}),
)
def test_so_is_every_field_that_has_one_meaning(name: str) -> None:
    assert len(_files(name)) <= MOST_FILES


@pytest.mark.parametrize("tokens", [ReferenceOps(), CpuOps(1)], ids=["reference", "cpu"])
def test_a_filter_goes_from_the_body_to_the_choice(tokens: TokenSampler) -> None:
    def sampled(min_p: float | None) -> set[int]:
        body = {"messages": [{"role": "user", "content": "a"}], "temperature": 50.0, "top_p": 1.0}
        asked = sampling_parameters(ChatRequest.model_validate({**body, "min_p": min_p}), None, None)
        asked = SamplingParameters.from_json(asked.to_json())
        request = GenerateRequest("r", input_ids=(5,), sampling=asked)
        rows = [SamplingRow(MODEL.process(request).sequence) for _ in range(40)]
        logits = np.zeros((40, TOKENIZER.vocab_size), np.float32)
        logits[:, 7] = 1.0
        sampler = Sampler(tokens, TOKENIZER.vocab_size)
        return {each.token_id for each in sampler.sample(logits, rows)}

    assert len(sampled(None)) > 10
    assert sampled(1.0) == {7}


def test_no_field_is_taken_and_refused() -> None:
    names = {field.name for field in fields(SamplingParameters)}
    assert not names & (UNSUPPORTED_IN_CHAT.keys() | UNSUPPORTED_IN_COMPLETIONS.keys())


@pytest.mark.parametrize("name", sorted(field.name for field in fields(SamplingParameters)))
def test_the_body_s_fields_have_the_types_of_the_wire_s(name: str) -> None:
    """But ``logprobs``, which chat and completions each spell in their own way."""
    if name == "logprobs":
        assert name not in GenerationFields.model_fields
        return
    kinds = {
        "Mapping[int, float]": {"object"},
        "Mapping[str, typing.Any]": {"object"},
        "bool": {"boolean"},
        "float": {"number"},
        "int": {"integer"},
        "tuple[int, ...]": {"array"},
        "tuple[str, ...]": {"array", "string"},
    }
    hint = str(get_type_hints(SamplingParameters)[name])
    kind = (
        hint.replace("<class '", "").replace("'>", "").replace("collections.abc.", "").removesuffix(" | None")
    )
    schema = GenerationFields.model_json_schema()["properties"][name]["anyOf"]
    assert {each["type"] for each in schema} == {*kinds[kind], "null"}
