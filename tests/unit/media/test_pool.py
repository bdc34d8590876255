"""The threads that prepare media: order, turns, limits, cache, cancel, errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import pytest

from ernie_backend.media.pool import MediaPool
from ernie_backend.media.processor import MediaProcessor
from ernie_backend.request.media import MediaItem, Medium
from ernie_wire.errors import ContextLengthExceeded, InternalError, InvalidValue, QueueFull
from support.media import grey_frames, image_file, plain_image, processor, video_file
from support.waiting import eventually

SIZE = 1000
Items = Future[tuple[MediaItem, ...]]


class FakeProcessor:
    """Prepares a file as an item of ``SIZE`` bytes, when it is let; ``bad`` and ``bug`` are errors."""

    max_tokens = 1000

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self._allowed = threading.Semaphore(0)

    def allow(self, count: int = 1000) -> None:
        self._allowed.release(count)

    def resolve(self, kind: str, options: Mapping[str, Any]) -> tuple[Any, ...]:
        if "wrong" in options:
            raise InvalidValue("wrong", "media")
        return tuple(options.items())

    def prepare(self, medium: bytes, kind: str, options: Mapping[str, Any]) -> MediaItem:
        self.begun.append(medium)
        self._allowed.acquire()
        if medium == b"bad":
            raise InvalidValue("bad file", "media")
        if medium == b"bug":
            raise ZeroDivisionError
        return MediaItem(kind, np.zeros(SIZE, np.uint8), (1, 2, 2), 1, medium)


def started(
    workers: int = 1, cache_bytes: int = 0, **limits: int
) -> tuple[FakeProcessor, MediaPool, Callable[..., Items]]:
    """Return a pool with a fake processor, and what submits images by their names."""
    fake = FakeProcessor()
    pool = MediaPool(cast(MediaProcessor, fake), workers, cache_bytes, **limits)
    return fake, pool, lambda *names: pool.submit([medium(name, index) for index, name in enumerate(names)])


def medium(data: bytes, index: int = 0, kind: str = "image", **options: Any) -> Medium:
    return Medium(data, kind, options, f"messages[0].content[{index}]")


def names(future: Items) -> list[bytes]:
    return [item.digest for item in future.result(10)]


def test_items_come_in_the_order_of_the_media() -> None:
    fake, _, submit = started(workers=3)
    fake.allow()
    futures = [submit(b"a", b"b", b"c"), submit(b"d"), submit()]
    assert [names(future) for future in futures] == [[b"a", b"b", b"c"], [b"d"], []]


def test_requests_take_turns() -> None:
    fake, _, submit = started()
    long, short = submit(*[bytes([index]) for index in range(100)]), submit(b"short")
    eventually(lambda: len(fake.begun) == 1)
    fake.allow(3)
    assert names(short) == [b"short"]
    assert not long.done()
    fake.allow()
    assert len(names(long)) == 100


def test_no_further_request_is_begun_while_there_is_no_room() -> None:
    fake, _, submit = started(max_prepared_bytes=SIZE)
    first = submit(b"a", b"b", b"c")
    fake.allow(2)
    eventually(lambda: len(fake.begun) == 3)
    second = submit(b"d")
    fake.allow(1)
    assert names(first) == [b"a", b"b", b"c"]
    fake.allow(1)
    assert names(second) == [b"d"]
    assert fake.begun == [b"a", b"b", b"c", b"d"]


def test_too_many_waiting_bytes_are_refused_but_not_a_request_alone() -> None:
    fake, _, submit = started(max_pending_bytes=10)
    large = submit(b"large" * 5)
    with pytest.raises(QueueFull, match=r"1 requests with 25 bytes.* 10"):
        submit(b"x")
    fake.allow()
    assert names(large) == [b"large" * 5]
    eventually(lambda: names(submit(b"x")) == [b"x"])


def test_what_was_prepared_is_remembered_up_to_a_number_of_bytes() -> None:
    fake, pool, submit = started(cache_bytes=2 * SIZE)
    fake.allow()
    assert names(submit(b"a", b"b", b"a")) == [b"a", b"b", b"a"]
    assert fake.begun == [b"a", b"b"]
    assert names(submit(b"c", b"a", b"b")) == [b"c", b"a", b"b"]  # of a and b, b is the longer unused
    assert fake.begun == [b"a", b"b", b"c", b"b"]
    (other,) = pool.submit([medium(b"b", max_pixels=1)]).result(10)
    (video,) = pool.submit([medium(b"b", kind="video")]).result(10)
    assert fake.begun[4:] == [b"b", b"b"]
    assert (other.kind, video.kind) == ("image", "video")


@pytest.mark.parametrize("cache_bytes", [0, 10 * SIZE])
def test_the_same_file_in_work_is_prepared_once(cache_bytes: int) -> None:
    fake, _, submit = started(workers=4, cache_bytes=cache_bytes)
    futures = [submit(b"a")]
    eventually(lambda: fake.begun == [b"a"])
    futures += [submit(b"a") for _ in range(3)] + [submit(b"other")]
    eventually(lambda: fake.begun == [b"a", b"other"])
    fake.allow()
    assert [names(future) for future in futures] == [[b"a"]] * 4 + [[b"other"]]
    assert fake.begun == [b"a", b"other"]
    items = [future.result()[0] for future in futures[:4]]
    assert all(item is items[0] for item in items)


def test_an_error_ends_its_request_alone() -> None:
    fake, pool, submit = started(cache_bytes=10 * SIZE)
    bad, good = submit(b"a", b"bad", b"b"), submit(b"good")
    also_bad, bug = submit(b"bad"), submit(b"bug")
    wrong = pool.submit([medium(b"a", wrong=1)])
    fake.allow()
    assert names(good) == [b"good"]
    with pytest.raises(InvalidValue, match=r"^messages\[0\]\.content\[1\]: bad file$"):
        bad.result(10)
    with pytest.raises(InvalidValue, match=r"^messages\[0\]\.content\[0\]: bad file$"):
        also_bad.result(10)
    with pytest.raises(InvalidValue, match="wrong"):
        wrong.result(10)
    with pytest.raises(InternalError, match="ZeroDivisionError"):
        bug.result(10)
    assert b"b" not in fake.begun
    assert names(submit(b"after")) == [b"after"]


def test_a_cancel_ends_the_work_of_its_request() -> None:
    fake, _, submit = started()
    running, waiting, other = submit(b"a", b"b"), submit(b"c"), submit(b"d")
    eventually(lambda: fake.begun == [b"a"])
    assert running.cancel()
    assert waiting.cancel()
    fake.allow()
    assert names(other) == [b"d"]
    assert fake.begun == [b"a", b"d"]


def test_a_cancel_of_one_of_two_that_want_the_same_file_leaves_the_other() -> None:
    fake, _, submit = started(workers=2)
    first = submit(b"a")
    eventually(lambda: fake.begun == [b"a"])
    second = submit(b"a", b"b")
    assert first.cancel()
    fake.allow()
    assert names(second) == [b"a", b"b"]


def test_many_requests_and_cancels_leave_nothing_behind() -> None:
    fake, pool, submit = started(workers=4, cache_bytes=5 * SIZE, max_prepared_bytes=3 * SIZE)
    fake.allow(100_000)
    futures = [submit(*[bytes([(index * each) % 17]) for each in range(index % 7)]) for index in range(500)]
    for future in futures[::3]:
        future.cancel()
    for index, future in enumerate(futures):
        if not future.cancelled():
            assert names(future) == [bytes([(index * each) % 17]) for each in range(index % 7)]
    eventually(lambda: not pool._pending)
    assert (list(pool._turns), pool._in_work) == ([], {})


def test_threads_prepare_the_same_items_as_one() -> None:
    loaded = processor()
    options: dict[str, Any] = {"max_pixels": 20_000, "max_frames": 6}
    images = [image_file(plain_image(40 + index, 50, color=index)) for index in range(12)]
    media = [medium(each, **options) for each in images]
    media += [medium(video_file(grey_frames(8 + index, 64, 48)), 0, "video", **options) for index in range(4)]
    pool = MediaPool(loaded, workers=4, cache_bytes=0)
    futures = [pool.submit(media[start:] + media[:start]) for start in range(0, 16, 2)]
    expected = [loaded.prepare(*each[:3]).digest for each in media]
    assert len(set(expected)) == 16
    for start, future in zip(range(0, 16, 2), futures, strict=True):
        assert names(future) == expected[start:] + expected[:start]


def test_a_hundred_large_images_are_prepared_as_far_as_the_context_goes() -> None:
    loaded = processor(max_model_len=5000)
    file = image_file(plain_image(1200, 1200))
    prepared = []
    prepare = MediaProcessor.prepare

    def counted(self: MediaProcessor, *arguments: Any) -> MediaItem:
        prepared.append(prepare(self, *arguments))
        return prepared[-1]

    with patch.object(MediaProcessor, "prepare", counted):
        future = MediaPool(loaded, workers=2, cache_bytes=0).submit([medium(file)] * 100)
        with pytest.raises(ContextLengthExceeded, match="first 3 of 100"):
            future.result(100)
    assert len(prepared) == 3
    assert sum(item.patches.nbytes for item in prepared) < 5000 * 4 * 588 + prepared[0].patches.nbytes
