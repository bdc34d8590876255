"""From sequences to the arrays of a step: media and positions, however a prompt is cut into chunks."""

from __future__ import annotations

import numpy as np
import pytest

from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.request.media import MediaSpan, cut_spans
from ernie_backend.request.sequence import Sequence
from ernie_backend.runner.inputs import build_batch
from ernie_backend.scheduler.scheduler import Scheduler
from ernie_backend.settings.engine_settings import SchedulerLimits
from fakes.media import make_item, put_media
from fakes.sequences import make_sequence

PROMPT = tuple(range(100, 117))
ITEMS = (make_item(1, 6), make_item(2, 4), make_item(3, 1))
SPANS = (MediaSpan(0, 2, 6), MediaSpan(1, 8, 4), MediaSpan(2, 14, 1))
PLACES = np.array([[0, 1, *[2] * 15], range(17), [0, 1, *range(15)]], np.int32)
ANSWER = 3


def _picture() -> Sequence:
    sequence = make_sequence("picture", PROMPT, ANSWER)
    sequence.prompt_positions = PLACES
    return put_media(sequence, tuple(span.start for span in SPANS), ITEMS)


@pytest.mark.parametrize("budget", [1, 3, 5, 8, 40])
@pytest.mark.parametrize("with_text", [False, True])
def test_media_and_positions_are_those_of_the_prompt_however_it_is_cut(budget: int, with_text: bool) -> None:
    scheduler = Scheduler(SchedulerLimits(4, budget, 9), BlockManager(40, 2))
    sequences = {"picture": _picture()}
    if with_text:
        sequences["text"] = make_sequence("text", (1, 2, 3, 4), ANSWER)
    for sequence in sequences.values():
        scheduler.add(sequence)
    places: dict[str, list[list[int]]] = {name: [] for name in sequences}
    encoded: list[tuple[int, bytes, int]] = []  # token, digest, row of the encoder
    while sequences["picture"].num_generated < ANSWER:
        while (task := scheduler.next_medium()) is not None:
            scheduler.finish_medium(task.item)
        plan = scheduler.schedule()
        batch = build_batch(plan)
        rows = iter([] if batch.media_rows is None else batch.media_rows.tolist())
        has_axes = any(chunk.request_id == "picture" for chunk in plan.chunks)
        assert batch.positions.shape == ((3, plan.num_tokens) if has_axes else (plan.num_tokens,))
        on_axes = np.broadcast_to(batch.positions, (3, plan.num_tokens))
        for chunk, begin in zip(plan.chunks, batch.query_starts.tolist(), strict=False):
            places[chunk.request_id] += on_axes[:, begin : begin + len(chunk.token_ids)].T.tolist()
            for span, digest in zip(chunk.media, chunk.digests, strict=True):
                encoded += [
                    (int(batch.token_ids[next(rows)]), digest, span.first_row + offset)
                    for offset in range(span.length)
                ]
            if chunk.num_sampled:
                sequences[chunk.request_id].append(7)
        assert next(rows, None) is None
        # In these prompts exactly the tokens of media go to the experts of vision.
        assert (batch.vision_rows is None) == (batch.media_rows is None)
        if batch.vision_rows is not None and batch.media_rows is not None:
            assert batch.vision_rows.dtype == np.int32
            assert batch.vision_rows.tolist() == batch.media_rows.tolist()
        scheduler.complete(plan)
    assert encoded == [
        (PROMPT[span.start + offset], item.digest, offset)
        for span, item in zip(SPANS, ITEMS, strict=True)
        for offset in range(span.length)
    ]
    # The answer goes on from the largest place on every axis.
    assert places["picture"] == [*PLACES.T.tolist(), [17] * 3, [18] * 3][: len(places["picture"])]
    assert len(places["picture"]) == len(PROMPT) + ANSWER - 1
    if with_text:
        assert places["text"] == [[place] * 3 for place in range(len(places["text"]))]


def test_spans_are_cut_at_the_ends_of_a_chunk() -> None:
    assert cut_spans(SPANS, 0, 2) == cut_spans(SPANS, 12, 14) == ()
    assert cut_spans(SPANS, 4, 6) == (MediaSpan(0, 0, 2, first_row=2),)
    assert cut_spans(SPANS, 0, 17) == SPANS


def test_text_alone_has_one_axis_and_no_media() -> None:
    scheduler = Scheduler(SchedulerLimits(4, 40, 9), BlockManager(40, 2))
    scheduler.add(make_sequence("text", (1, 2, 3), 1))
    batch = build_batch(scheduler.schedule())
    assert batch.positions.tolist() == [0, 1, 2]
    assert batch.media_rows is None
    assert batch.vision_rows is None
