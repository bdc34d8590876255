"""An answer is the same, bit for bit, alone and in any company: on the C++ kernels, for each activation type.

The logits of every sampled token are compared, not only the tokens: prefix hits, preemption, chunks and batches
must not change a single bit of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from ernie_backend.devices.backend import CPU
from ernie_backend.engine.engine import Engine
from ernie_backend.engine.media_inputs import PlacedMedia
from ernie_backend.engine.request_state import RequestState
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.models.base import Model
from ernie_backend.request.media import MediaItem
from ernie_backend.request.step_plan import SchedulePlan
from ernie_backend.runner import encoder as encoder_module
from ernie_backend.runner.encoder import Encoder, MediaRows, Normalization
from ernie_backend.runner.model_runner import ModelRunner
from ernie_backend.runner.sampler import Sampler
from ernie_backend.settings.engine_settings import SchedulerLimits
from ernie_kernels.api import CacheSpec, Ops
from ernie_kernels.formats import ActivationType
from ernie_kernels.sampling import HeadOutput, SamplingFilters, TokenChoices, head_output
from ernie_wire.messages import Heartbeat
from fakes.media import PLACEHOLDER, put_media
from fakes.sequences import make_request
from numerics.backends import CPU_BACKENDS, make_ops
from numerics.generation import load
from numerics.golden import checkpoint
from support.vision_model import media_item

BLOCK_SIZE = 4
VOCAB_SIZE = 562
MAX_TOKENS = 12
SHARED = tuple(range(100, 119))

Answer = tuple[tuple[int, ...], bytes]
"""Token ids, and the bits of the logits they were sampled from."""


class _RecordingRunner(ModelRunner):
    """Keeps the logits of every sampled token, unless the backend is to choose."""

    def __init__(
        self, model: Model, ops: Ops, num_blocks: int, cache_dtype: str, *, is_recording: bool
    ) -> None:
        config = model.config
        spec = CacheSpec(num_blocks, BLOCK_SIZE, config.num_kv_heads, config.head_dim, cache_dtype)
        caches = [ops.allocate_cache(spec) for _ in range(config.num_layers)]
        vision = model.vision
        encoder = None if vision is None else Encoder(vision, ops, Normalization((0.5,) * 3, (0.25,) * 3))
        super().__init__(model, ops, caches, encoder=encoder)
        self._is_recording = is_recording
        self.logits: dict[str, list[bytes]] = {}

    def run(self, plan: SchedulePlan, choices: TokenChoices | None = None) -> HeadOutput:
        if not self._is_recording:
            return super().run(plan, choices)
        logits = super().run(plan).logits
        sampled = [chunk.request_id for chunk in plan.chunks if chunk.num_sampled]
        for request_id, row in zip(sampled, logits, strict=True):
            self.logits.setdefault(request_id, []).append(row.tobytes())
        return head_output(logits, choices)


def _requests() -> list[RequestState]:
    """Requests with shared beginnings, some greedy and some with a seed; the last goes on from the first."""
    prompts = [(*SHARED, *range(200, 200 + count)) for count in (1, 3, 6)]
    prompts += [SHARED, SHARED[:13], tuple(range(300, 317)), (*prompts[0], *range(400, 409))]
    made = [make_request(f"r{index}", prompt, MAX_TOKENS) for index, prompt in enumerate(prompts)]
    for index, request in enumerate(made[1::2]):
        sampling = replace(request.sequence.sampling, filters=SamplingFilters(1.0, top_p=0.9), seed=index)
        request.sequence.sampling = sampling
    return made


RED, BLUE = (media_item("image", (1, 4, 4), seed) for seed in (1, 2))
WIDE, VIDEO = media_item("image", (1, 4, 6)), media_item("video", (4, 4, 4))


def _seeing_requests(*, has_video: bool) -> list[RequestState]:
    """Requests with one question about several media, that share text and media, or only text."""
    texts, media = (
        (SHARED[:7], (200, 201, 202), (210,)),
        [(RED,), (RED,), (BLUE,), (RED, WIDE), (WIDE, BLUE), ()],
    )
    if has_video:
        media += [(VIDEO,), (RED, VIDEO)]
    return [_seeing_request(f"r{index}", texts, items) for index, items in enumerate(media)]


def _seeing_request(name: str, texts: Sequence[tuple[int, ...]], items: Sequence[MediaItem]) -> RequestState:
    ids, starts = [*texts[0]], []
    for item, text in zip(items, texts[1:], strict=False):
        starts.append(len(ids))
        ids += [*[PLACEHOLDER] * item.num_tokens, *text]
    request = make_request(name, tuple(ids), MAX_TOKENS)
    sequence = put_media(request.sequence, starts, items)
    sequence.prompt_positions = PlacedMedia(sequence.media_items, sequence.media).positions(len(ids))
    return request


@dataclass(frozen=True)
class House:
    """A model on its kernels; ``is_recording``: answers have the bits of logits, and tokens come from these."""

    model: Model
    ops: Ops
    cache_dtype: str
    is_recording: bool = True

    def answers(
        self, requests: Iterable[RequestState], limits: SchedulerLimits, num_blocks: int, *, cache: bool
    ) -> tuple[dict[str, Answer], Heartbeat]:
        """Serve requests that arrive one in a step."""
        runner = _RecordingRunner(
            self.model, self.ops, num_blocks, self.cache_dtype, is_recording=self.is_recording
        )
        blocks = BlockManager(num_blocks, BLOCK_SIZE, enable_prefix_caching=cache)
        sampler = Sampler(CPU.token_sampler(self.ops), self.model.config.vocab_size)
        engine = Engine(runner, blocks, limits, sampler, encoder=runner.encoder)
        tokens: dict[str, tuple[int, ...]] = {}
        coming = list(requests)
        while coming or engine.has_work:
            if coming:
                assert engine.submit(coming.pop(0)) is None
            for output in engine.step():
                assert output.error is None
                tokens[output.request_id] = tokens.get(output.request_id, ()) + output.token_ids
            engine.check_integrity()
        bits = {name: b"".join(runner.logits.get(name, ())) for name in tokens}
        return {name: (ids, bits[name]) for name, ids in tokens.items()}, engine.heartbeat


OF_QUANTIZED = (ActivationType.FLOAT32, ActivationType.INT8, ActivationType.INT16)
MODELS = [
    *(("dense", "wint8", cache_dtype, each) for cache_dtype in ("bfloat16", "int8") for each in OF_QUANTIZED),
    *(("moe", "wint4_all", "bfloat16", each) for each in OF_QUANTIZED),
    *(("dense", None, cache_dtype, ActivationType.BFLOAT16) for cache_dtype in ("bfloat16", "int8")),
]


@pytest.mark.parametrize(("family", "quantization", "cache_dtype", "activation"), MODELS)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_company_chunks_hits_and_preemption_change_no_bit(
    backend: str, family: str, quantization: str | None, cache_dtype: str, activation: ActivationType
) -> None:
    ops = make_ops(backend)
    model = load(checkpoint(family), ops, "bfloat16", quantization, activation)
    _check(House(model, ops, cache_dtype), _requests)


@pytest.mark.parametrize(
    ("family", "quantization", "activation"),
    [
        ("vl_moe", "wint8", ActivationType.INT16),
        pytest.param("vl_moe", None, ActivationType.BFLOAT16, marks=pytest.mark.full),
        ("paddleocr_vl", None, ActivationType.BFLOAT16),
    ],
)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_nor_do_they_with_media(
    backend: str, family: str, quantization: str | None, activation: ActivationType
) -> None:
    ops = make_ops(backend)
    model = load(checkpoint(family), ops, "bfloat16", quantization, activation)
    _check(House(model, ops, "bfloat16"), lambda: _seeing_requests(has_video=family == "vl_moe"))


def _check(house: House, requests: Callable[[], list[RequestState]]) -> None:
    alone: dict[str, Answer] = {}
    for request in requests():
        alone |= house.answers([request], SchedulerLimits(1, 1000, 99), 60, cache=False)[0]
    together, _ = house.answers(requests(), SchedulerLimits(8, 1000, 99), 120, cache=False)
    assert together == alone
    hit, beat = house.answers(requests(), SchedulerLimits(8, 1000, 99), 120, cache=True)
    assert hit == alone
    assert beat.prefix_cache_hits > 0
    for chunk in (1, 5):
        limits = SchedulerLimits(4, chunk, 99, encoder_cache_tokens=0)
        tight, beat = house.answers(requests(), limits, 15, cache=True)
        assert tight == alone
        assert beat.prefix_cache_hits > 0
        assert (beat.free_blocks, beat.running, beat.waiting) == (15, 0, 0)
    limits = SchedulerLimits(8, 64, 99, encoder_cache_tokens=0)
    preempting, beat = house.answers(requests(), limits, 15, cache=True)
    assert preempting == alone
    assert beat.preemptions > 0


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_nor_do_the_parts_in_which_a_video_is_encoded(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ops = make_ops(backend)
    model = load(checkpoint("vl_moe"), ops, "bfloat16", None, ActivationType.BFLOAT16)
    assert model.vision is not None
    encoder = Encoder(model.vision, ops, Normalization((0.5,) * 3, (0.25,) * 3))
    video = media_item("video", (8, 4, 6))
    found, num_pieces = [], []
    for most in (encoder_module.PART_PATCHES, 100, 1):
        monkeypatch.setattr(encoder_module, "PART_PATCHES", most)
        encoder.start(video)
        num_pieces.append(1)
        while not encoder.advance():
            num_pieces[-1] += 1
        rows = encoder.rows([MediaRows(video.digest, 0, video.num_tokens)])
        found.append(np.asarray(rows, np.float32).tobytes())
    assert found[0] == found[1] == found[2]
    assert num_pieces == sorted(set(num_pieces)), "more parts"
