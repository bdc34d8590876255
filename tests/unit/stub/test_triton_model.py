"""The class that Triton calls, without an engine: an unconfigured entry and entries that cannot start."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ernie_stub.triton_model import TritonPythonModel
from fakes.triton_python_backend_utils import InferenceRequest, TritonModelException


def arguments(directory: Path, **parameters: str) -> dict[str, str]:
    config = {"parameters": {key: {"string_value": value} for key, value in parameters.items()}}
    return {"model_config": json.dumps(config), "model_name": "ernie", "model_repository": str(directory)}


def request(**inputs: str) -> InferenceRequest:
    return InferenceRequest(
        {name: np.array([value.encode()], dtype=np.object_) for name, value in inputs.items()}
    )


@pytest.fixture
def unconfigured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TritonPythonModel]:
    monkeypatch.delenv("ERNIE_MODEL_ROOT", raising=False)
    model = TritonPythonModel()
    model.initialize(arguments(tmp_path))
    yield model
    model.finalize()


def test_an_unconfigured_entry_answers_every_request_with_the_reason(unconfigured: TritonPythonModel) -> None:
    made = request(text_input="hi")
    unconfigured.execute([made])
    assert made.sender.error_line().startswith("model_unavailable: ")


def test_an_unconfigured_entry_describes_itself(unconfigured: TritonPythonModel) -> None:
    made = request(control='{"op": "describe"}')
    unconfigured.execute([made])
    assert made.sender.finished.wait(60)
    answer = json.loads(made.sender.responses[0].values()["control_output"])
    assert (answer["state"], answer["engine"]) == ("unconfigured", None)


def test_a_bad_request_does_not_harm_the_others_of_its_batch(unconfigured: TritonPythonModel) -> None:
    bad, good = request(), request(control='{"op": "health"}')
    unconfigured.execute([bad, good])
    assert bad.sender.error_line().startswith("invalid_value[text_input]: ")
    assert good.sender.finished.wait(60)
    assert good.sender.responses[0].error() is None


def test_a_name_that_is_no_text_can_be_told(unconfigured: TritonPythonModel) -> None:
    made = request(text_input="a", sampling_parameters='{"\\ud800": 1}')
    unconfigured.execute([made])
    line = made.sender.error_line()
    assert line.encode().startswith(rb"invalid_value[\ud800]: sampling_parameters has no field")


def test_an_entry_that_cannot_start_raises_one_line(tmp_path: Path) -> None:
    model = TritonPythonModel()
    with pytest.raises(TritonModelException, match="not a directory") as caught:
        model.initialize(arguments(tmp_path, model="nowhere"))
    assert "\n" not in str(caught.value)


def test_a_missing_interpreter_raises_one_line(tmp_path: Path) -> None:
    model = TritonPythonModel()
    with pytest.raises(TritonModelException, match="/no/python"):
        model.initialize(arguments(tmp_path, model=str(tmp_path), engine_python="/no/python"))
