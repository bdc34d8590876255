"""The model directory: names, the default, and how old its knowledge may be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ernie_frontend.settings import Settings
from ernie_frontend.triton.model_registry import ModelRegistry
from ernie_wire.errors import ErnieError, InternalError, ModelNotFound, ModelUnavailable
from ernie_wire.status import Health, Status
from fakes.descriptions import description


def described(state: str = "ready") -> Status:
    return Status(state, generation=1, engine=description(vocab_size=10) if state == "ready" else None)


class Control:
    """Answers from a table; an error in it is raised."""

    def __init__(self, **models: Status | ErnieError) -> None:
        self.models = models
        self.failure: ErnieError | None = None
        self.num_questions = 0
        self.was_asked = asyncio.Event()
        self.hold: asyncio.Event | None = None

    async def ready_models(self) -> list[str]:
        self.num_questions += 1
        self.was_asked.set()
        if self.hold is not None:
            await self.hold.wait()
        if self.failure is not None:
            raise self.failure
        return list(self.models)

    async def health(self, model: str) -> Health:
        raise AssertionError(model)

    async def describe(self, model: str) -> Status:
        answer = self.models[model]
        if isinstance(answer, ErnieError):
            raise answer
        return answer


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def directory(control: Control, **settings: Any) -> tuple[ModelRegistry, Clock]:
    clock = Clock()
    return ModelRegistry(control, Settings(triton_urls=("x:1",), **settings), clock), clock


@pytest.mark.parametrize(
    ("states", "may_read"),
    [(("ready",), False), (("ready", "unconfigured", "failed"), False), (("ready", "starting"), True)],
)
async def test_whether_a_model_reads_media(states: tuple[str, ...], may_read: bool) -> None:
    models, _ = directory(Control(**{state: described(state) for state in states}))
    assert await models.read_media() == may_read
    seeing = Status("ready", engine=description(modalities=("text", "image")))
    models, _ = directory(Control(**{state: described(state) for state in states}, seeing=seeing))
    assert await models.read_media()


async def test_an_exact_name_wins_and_any_other_is_the_default() -> None:
    models, _ = directory(Control(a=described("unconfigured"), b=described(), c=described()))
    for name, expected in ((None, "b"), ("null", "b"), ("default", "b"), ("", "b"), ("a", "a"), ("c", "c")):
        served = await models.resolve(name)
        assert (served.public_name, served.entry.name) == (expected, expected)


async def test_the_default_can_be_chosen() -> None:
    models, _ = directory(Control(b=described(), c=described()), default_model="c")
    assert (await models.resolve("null")).entry.name == "c"
    models, _ = directory(Control(b=described()), default_model="gone")
    with pytest.raises(ModelUnavailable, match="gone"):
        await models.resolve("null")


async def test_a_served_name_hides_the_others() -> None:
    models, _ = directory(Control(b=described(), c=described()), served_model_name="ernie", default_model="c")
    for name in ("ernie", "default", None):
        served = await models.resolve(name)
        assert (served.public_name, served.entry.name) == ("ernie", "c")
    for name in ("b", "c", "null"):
        with pytest.raises(
            ModelNotFound, match=rf"Unsupported model: \[{name}\], support \[ernie\] or default"
        ):
            await models.resolve(name)
    assert [model.public_name for model in await models.listed()] == ["ernie"]


async def test_only_working_models_are_listed() -> None:
    control = Control(
        a=described(), b=described("unconfigured"), c=described("failed"), d=InternalError("foreign")
    )
    models, _ = directory(control)
    assert [model.public_name for model in await models.listed()] == ["a"]
    assert (await models.resolve("b")).entry.name == "b"  # it exists: its stub will say what is missing
    assert (await models.resolve("d")).entry.name == "a"  # not one of ours


async def test_no_model_at_all_is_asked_again_each_time() -> None:
    control = Control()
    models, _ = directory(control)
    for count in (1, 2):
        with pytest.raises(ModelUnavailable):
            await models.resolve("null")
        assert control.num_questions == count


async def test_answers_are_kept_for_a_while() -> None:
    control = Control(a=described())
    models, clock = directory(control, registry_ttl_s=5.0)
    for _ in range(3):
        await models.resolve("null")
    assert control.num_questions == 1
    clock.now_s = 5.0
    control.models = {"b": described()}
    assert (await models.resolve("null")).entry.name == "b"


async def test_old_answers_serve_while_triton_is_slow() -> None:
    control = Control(a=described())
    models, clock = directory(control)
    await models.resolve("null")
    clock.now_s = 100.0
    control.failure = ModelUnavailable("slow")
    engine = (await models.resolve("null")).entry.engine
    assert engine is not None
    assert engine.vocab_size == 10
    clock.now_s += 2.0  # it is asked again after a moment, not after registry_ttl_s
    control.failure = None
    control.models["a"] = ModelUnavailable("slow")
    engine = (await models.resolve("null")).entry.engine
    assert engine is not None
    assert engine.vocab_size == 10
    assert control.num_questions == 3


async def test_a_triton_that_is_gone_for_long_is_told_at_once() -> None:
    control = Control(a=described())
    models, clock = directory(control)
    await models.resolve("null")
    clock.now_s = 100.0
    control.failure = ModelUnavailable("gone")
    await models.resolve("null")
    clock.now_s += 5.0
    with pytest.raises(ModelUnavailable, match="gone"):
        await models.resolve("null")
    clock.now_s += 2.0
    control.failure = None
    assert (await models.resolve("null")).entry.name == "a"


async def test_all_who_ask_at_once_wait_for_one_answer() -> None:
    control = Control(a=described())
    models, _ = directory(control)
    control.hold = asyncio.Event()
    asking = [asyncio.create_task(models.resolve("null")) for _ in range(4)]
    await control.was_asked.wait()
    asking[0].cancel()  # whoever goes away does not take the answer along
    control.hold.set()
    assert [(await each).entry.name for each in asking[1:]] == ["a", "a", "a"]
    assert control.num_questions == 1


async def test_a_failure_is_for_all_and_remembered_for_a_moment() -> None:
    control = Control(a=described())
    control.failure = ModelUnavailable("slow")
    models, clock = directory(control)
    answers = await asyncio.gather(*(models.resolve("null") for _ in range(4)), return_exceptions=True)
    assert all(isinstance(answer, ModelUnavailable) for answer in answers)
    with pytest.raises(ModelUnavailable, match="slow"):
        await models.resolve("null")
    assert control.num_questions == 1
    control.failure = None
    clock.now_s = 1.0
    assert (await models.resolve("null")).entry.name == "a"


async def test_triton_never_reached() -> None:
    control = Control()
    control.failure = ModelUnavailable("Triton at x:1 cannot be reached")
    models, _ = directory(control)
    with pytest.raises(ModelUnavailable, match="x:1"):
        await models.listed()
