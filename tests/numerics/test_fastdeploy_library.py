"""FastDeploy's ops are found by path, loaded without FastDeploy, and told apart by their arguments."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from ernie_backend.devices.backend import XPU
from ernie_backend.devices.xpu_ops import fastdeploy_file
from ernie_backend.errors import StartError
from ernie_cli.doctor.finding import Verdict
from ernie_cli.doctor.xpu_checks import check_operators
from ernie_kernels.fastdeploy.library import (
    FOLDER,
    NEEDED,
    Library,
    Lineage,
    argument_names,
    find_library,
    load_library,
)
from fakes.fastdeploy.library import BLOCK_ATTN, fastdeploy_module
from support.paths import ROOT

SOURCE = """
from ernie_kernels.fastdeploy.library import Lineage
from fakes.fastdeploy.library import fastdeploy_module

globals().update(vars(fastdeploy_module(Lineage.{})))
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed FastDeploy that must not be imported; returns the file of its ops."""
    file = tmp_path / "fastdeploy" / FOLDER / "fastdeploy_ops.py"
    file.parent.mkdir(parents=True)
    (tmp_path / "fastdeploy" / "__init__.py").write_text("raise AssertionError('fastdeploy was imported')")
    file.write_text(SOURCE.format("V2_4"))
    monkeypatch.syspath_prepend(str(tmp_path))
    return file


@pytest.mark.parametrize("lineage", list(Lineage))
def test_lineages_are_told_apart(package: Path, lineage: Lineage) -> None:
    package.write_text(SOURCE.format(lineage.name))
    assert find_library() == package
    assert load_library(package).lineage is lineage
    assert "fastdeploy" not in sys.modules


def test_the_forms_have_the_arguments_that_were_read() -> None:
    assert [len(BLOCK_ATTN[lineage]) for lineage in Lineage] == [28, 38, 39]


def test_a_missing_op_is_named_with_its_versions() -> None:
    for name, versions in NEEDED.items():
        module = fastdeploy_module(Lineage.V2_4)
        delattr(module, name)
        with pytest.raises(RuntimeError, match=f"no {name}, which versions {versions} have.*ERNIE_XPU_OPS"):
            Library.of_module(module)


@pytest.mark.parametrize("name", list(NEEDED))
def test_other_arguments_are_named_with_the_known_versions(name: str) -> None:
    module = fastdeploy_module(Lineage.V2_3)
    op = getattr(module, name)
    op.__doc__ = op.__doc__.replace(f"{name}(", f"{name}(surprise: int, ", 1)
    with pytest.raises(RuntimeError, match=rf"{name} has other arguments \(surprise\).*2\.3, 2\.4 and 2\.5"):
        Library.of_module(module)


def test_pybind11s_signatures_are_read() -> None:
    def op() -> None: ...

    op.__doc__ = (
        "op(x: paddle::Tensor, scales: Optional[Dict[str, int]] = None, f: Callable[[int], int], "
        "arch: int = -1) -> List[paddle::Tensor]\n\nIt (or another) does -> things"
    )
    assert argument_names(op, "op") == {"x", "scales", "f", "arch"}
    op.__doc__ = None
    assert argument_names(op, "op") == frozenset()


def test_a_library_that_does_not_load(package: Path) -> None:
    package.write_text("import no_such_paddle")
    with pytest.raises(
        RuntimeError, match=r"fastdeploy_ops.py cannot be loaded .*no_such_paddle.*ERNIE_XPU_OPS"
    ):
        load_library(package)
    with pytest.raises(StartError, match="device xpu cannot be used: FastDeploy's XPU ops"):
        XPU.create_ops(1)


def test_doctor_says_which_version_is_installed(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded by another process, which may end."""
    monkeypatch.setenv("PYTHONPATH", f"{package.parents[3]}:{ROOT / 'tests'}")
    finding = check_operators()
    assert finding.verdict is Verdict.OK, finding
    assert re.search(r"version 2\.4 and 2\.5: .*blocks of 64 tokens.*no expert parallelism", finding.found)
    package.write_text("import no_such_paddle")
    finding = check_operators()
    assert finding.verdict is Verdict.FAIL
    assert re.search("no_such_paddle.*version.txt", finding.found)
    assert "ERNIE_XPU_OPS=composed" in finding.fix


def test_which_ops_an_xpu_has(package: Path) -> None:
    assert fastdeploy_file({}) == fastdeploy_file({"ERNIE_XPU_OPS": "fastdeploy"}) == package
    assert fastdeploy_file({"ERNIE_XPU_OPS": "composed"}) is None
    with pytest.raises(StartError, match="ERNIE_XPU_OPS is 'gpu'; choose auto, fastdeploy or composed"):
        fastdeploy_file({"ERNIE_XPU_OPS": "gpu"})
    assert XPU.planned_device(0, None).name == "P800"


def test_without_fastdeploy_ops_are_composed() -> None:
    assert fastdeploy_file({}) is None
    assert "slow fallback" in XPU.planned_device(0, None).name
    with pytest.raises(StartError, match=r"not installed.*composed, the slow fallback"):
        fastdeploy_file({"ERNIE_XPU_OPS": "fastdeploy"})
