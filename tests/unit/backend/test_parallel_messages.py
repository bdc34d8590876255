"""What rank 0 and the others say survives a frame."""

from __future__ import annotations

import socket
from dataclasses import fields

import numpy as np
import pytest

from ernie_backend.parallel.messages import (
    AllHere,
    Allocate,
    Beat,
    Challenge,
    Failed,
    Hello,
    Here,
    Join,
    Loaded,
    RankMessage,
    Refused,
    Step,
    Welcome,
    from_frame,
    to_frame,
)
from ernie_kernels.api import Batch
from ernie_wire.frames import receive_frame, send_frame


def over_a_socket(message: RankMessage) -> RankMessage:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_frame(ours, *to_frame(message))
        frame = receive_frame(theirs)
    assert frame is not None
    return from_frame(*frame)


@pytest.mark.parametrize(
    "message",
    [
        Challenge("7f"),
        Hello(4, 2, 1, 0, "proof"),
        Welcome(),
        Refused("no secret"),
        Join(1, "127.0.0.1:7", {"model": "/m"}, "digest", "cpu avx2"),
        Beat((1, 2, 3), 4, is_held=True),
        Here(),
        AllHere(),
        Loaded(7),
        Failed("no weights"),
        Allocate(5),
    ],
)
def test_messages_come_as_they_were_sent(message: RankMessage) -> None:
    assert over_a_socket(message) == message


def test_a_batch_keeps_its_arrays_empty_ones_too() -> None:
    batch = Batch(
        token_ids=np.array([5, 6, 7], np.int32),
        positions=np.arange(3, dtype=np.int32),
        query_starts=np.array([0, 2, 3], np.int32),
        context_lengths=np.array([0, 9], np.int32),
        block_tables=np.array([[3, -1], [1, 2]], np.int32),
        logit_rows=np.array([], np.int32),
    )
    came = over_a_socket(Step(batch))
    assert isinstance(came, Step)
    for field in fields(Batch):
        found, sent = getattr(came.batch, field.name), getattr(batch, field.name)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, sent, strict=True)


@pytest.mark.parametrize(
    "header", [{}, {"kind": "Nonsense"}, {"kind": "Loaded"}, {"kind": "Step", "shapes": [[1]]}]
)
def test_what_is_no_message_is_refused(header: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        from_frame(header, [])
