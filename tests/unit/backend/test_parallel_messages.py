"""What rank 0 and the others say survives a frame."""

from __future__ import annotations

import socket
from dataclasses import fields
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_backend.parallel.messages import (
    CODEC,
    RankMessage,
    StartEncoding,
    Step,
)
from ernie_backend.runner.encoder import MediaRows
from ernie_kernels.api import Batch
from ernie_kernels.sampling import GREEDY, SamplingFilters, TokenChoices, sampling_batch
from ernie_wire.codec import MessageError
from ernie_wire.frames import receive_frame, send_frame
from fakes.media import make_item
from fakes.wire_values import values_of


def over_a_socket(message: RankMessage) -> RankMessage:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_frame(ours, *CODEC.encode(message))
        frame = receive_frame(theirs)
    assert frame is not None
    return CODEC.decode(*frame)


@given(st.one_of(*(values_of(kind) for kind in get_args(RankMessage) if kind not in (Step, StartEncoding))))
def test_messages_come_as_they_were_sent(message: RankMessage) -> None:
    assert over_a_socket(message) == message


def test_a_batch_keeps_its_arrays_empty_ones_too() -> None:
    batch = Batch(
        token_ids=np.array([5, 6, 7], np.int32),
        positions=np.arange(9, dtype=np.int32).reshape(3, 3),
        query_starts=np.array([0, 2, 3], np.int32),
        context_lengths=np.array([0, 9], np.int32),
        block_tables=np.array([[3, -1], [1, 2]], np.int32),
        logit_rows=np.array([], np.int32),
        media_rows=np.array([1], np.int32),
        vision_rows=np.array([0, 1], np.int32),
        choices=TokenChoices(
            np.array([0, 2], np.int32),
            sampling_batch([(GREEDY, 0.0), (SamplingFilters(0.7, 0.1, 5, 0.9), 0.3)]),
            7,
        ),
    )
    media = (MediaRows(b"\xff" * 32, 3, 9),)
    came = over_a_socket(Step(batch, media))
    assert isinstance(came, Step)
    assert came.media == media
    for field in fields(Batch):
        if field.name != "choices":
            found, sent = getattr(came.batch, field.name), getattr(batch, field.name)
            assert found.dtype == np.int32
            np.testing.assert_array_equal(found, sent, strict=True)
    choices, sent_choices = came.batch.choices, batch.choices
    assert choices is not None
    assert sent_choices is not None
    assert choices.vocab_size == 7
    np.testing.assert_array_equal(choices.places, sent_choices.places, strict=True)
    np.testing.assert_array_equal(choices.sampling, sent_choices.sampling, strict=True)


def test_a_medium_comes_with_its_patches() -> None:
    item = make_item(1, 40)
    came = over_a_socket(StartEncoding(item))
    assert isinstance(came, StartEncoding)
    np.testing.assert_array_equal(came.item.patches, item.patches, strict=True)
    assert (came.item.kind, tuple(came.item.grid), came.item.num_tokens, came.item.digest) == (
        item.kind,
        item.grid,
        item.num_tokens,
        item.digest,
    )


@pytest.mark.parametrize(
    "header",
    [
        {"kind": "Step", "batch": {}},
        {"kind": "Step", "batch": {field.name: [0, 1] for field in fields(Batch)}},
        {"kind": "Step", "batch": {field.name: 0 for field in fields(Batch)}},
    ],
)
def test_what_is_no_batch_is_refused(header: dict[str, object]) -> None:
    with pytest.raises(MessageError):
        CODEC.decode(header, [])
