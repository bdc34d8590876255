"""The documents say what the code says: tables, links and file names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from ernie_backend.media.families import ERNIE_VL, PADDLEOCR_VL
from ernie_backend.media.images import FORMATS, MAX_IMAGE_PIXELS, MAX_JPEG_SCANS
from ernie_backend.media.options import LOW_DETAIL_PIXELS
from ernie_backend.media.pool import MAX_PENDING_BYTES, MAX_PREPARED_BYTES
from ernie_backend.media.videos import MAX_FRAME_PIXELS, MAX_SECONDS
from ernie_backend.settings.engine_settings import DEFAULT_PROCESSOR_CACHE_GIB
from ernie_backend.settings.media_values import ProcessorKwargs
from ernie_backend.settings.speculative_config import SpeculativeConfig
from ernie_cli.presets.rows import ROWS, Row
from ernie_frontend import http_errors as frontend
from ernie_frontend.settings import MediaRules, Settings
from ernie_wire.errors import ErnieError
from ernie_wire.json_text import MAX_DEPTH
from ernie_wire.messages import MAX_MEDIA, MAX_MEDIA_BYTES, MAX_MEDIUM_BYTES
from ernie_wire.sampling import SamplingParameters
from ernie_wire.tensors import INPUTS, OUTPUTS, TensorSpec
from support.paths import ROOT

DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        ROOT / "backend" / "README.md",
        ROOT / "kernels" / "README.md",
    ]
)


def rows(document: str) -> set[str]:
    return {line for line in (ROOT / "docs" / document).read_text().splitlines() if line.startswith("| ")}


def section(document: str, title: str) -> str:
    text = (ROOT / "docs" / document).read_text()
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def tensor_row(spec: TensorSpec) -> str:
    kind = spec.datatype.removeprefix("TYPE_").replace("STRING", "BYTES")
    return f"| `{spec.name}` | {kind} | {list(spec.dims)} | {spec.meaning} |"


@pytest.mark.parametrize("spec", [*INPUTS, *OUTPUTS], ids=lambda spec: spec.name)
def test_every_tensor_is_in_the_wire_document(spec: TensorSpec) -> None:
    assert tensor_row(spec) in rows("wire.md")


def test_the_keys_of_speculation_are_documented_with_their_defaults() -> None:
    documented = dict(
        re.findall(r"^\| `(\w+)` \| ([\w, ]+) \|", section("sampling.md", "Guessed tokens"), re.M)
    )
    assert documented.pop("method") == "none, required"
    assert documented == {
        each.name: str(each.default) for each in fields(SpeculativeConfig) if each.name != "method"
    }


@pytest.mark.parametrize("row", [row for row in ROWS.values() if "vl" in row.name], ids=lambda row: row.name)
def test_the_flags_of_models_that_see_are_documented(row: Row) -> None:
    plain = ("--max-model-len", "--max-num-seqs", "--quantization", "--tensor-parallel-size")
    flags = {name: value for name, value in {**row.options, **row.others}.items() if name not in plain}
    shown = ", ".join(f"`{name} {shlex.quote(value)}`" for name, value in flags.items())
    assert f"| `{row.name}` | {shown} |" in rows("plan.md")


def sampling_rows() -> Iterator[str]:
    """Rows of the Attributes section of SamplingParameters' docstring."""
    text = (SamplingParameters.__doc__ or "").split("Attributes:")[1]
    for entry in re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", text, re.MULTILINE):
        yield f"| `{entry[0]}` | {' '.join(entry[1].split())} |"


def test_every_sampling_parameter_is_in_the_wire_document() -> None:
    expected = set(sampling_rows())
    assert len(expected) == len(SamplingParameters.__dataclass_fields__)
    assert expected <= rows("wire.md")


def test_limits_of_media_are_in_the_wire_document() -> None:
    document = " ".join((ROOT / "docs" / "wire.md").read_text().split())
    one, all_together = MAX_MEDIUM_BYTES >> 20, MAX_MEDIA_BYTES >> 20
    limits = f"{MAX_MEDIA} buffers of 1 byte to {one} MiB, with {all_together} MiB together"
    assert limits in document
    assert f"at most {MAX_DEPTH} levels deep" in document


def test_limits_of_fetching_are_in_the_media_document() -> None:
    rules, settings = MediaRules(), Settings(())
    one, all_together = MAX_MEDIUM_BYTES >> 20, MAX_MEDIA_BYTES >> 20
    times = (rules.connect_timeout_s, rules.read_timeout_s, rules.download_timeout_s)
    held, waiting = rules.max_held_bytes >> 20, settings.max_held_prompt_bytes >> 30
    assert rows("media.md") >= {
        f"| the same in all | {MAX_MEDIA} |",
        f"| bytes of one file, and of all files of a request | {one} MiB, {all_together} MiB |",
        f"| redirects of a download | {rules.max_redirects} |",
        "| time to connect; without a byte; for the whole download | "
        + ", ".join(f"{each:g} s" for each in times)
        + " |",
        f"| downloads of one frontend process at a time; from one host | {rules.max_downloads}, "
        f"{rules.max_downloads_per_host}; others wait up to {rules.place_wait_s:g} s, then 429 |",
        f"| bytes that a process downloads and decodes at a time | {held} MiB; above it 429 |",
        "| bytes of prompts and media that wait for the first token of their answer, in a process | "
        f"{waiting} GiB; above it 429 |",
    }
    bodies = f"A body may have {settings.max_media_body_bytes >> 20} MiB"
    assert bodies in (ROOT / "docs" / "media.md").read_text()


def leaves(error: type[ErnieError], module: str = "ernie_wire.errors") -> Iterator[type[ErnieError]]:
    if error.__module__ == module:
        yield error
    for child in error.__subclasses__():
        yield from leaves(child, module)


@pytest.mark.parametrize("error", [leaf for leaf in leaves(ErnieError) if leaf is not ErnieError])
def test_every_error_is_in_the_error_document(error: type[ErnieError]) -> None:
    meaning = (error.__doc__ or "").splitlines()[0].rstrip(".")
    row = f"| `{error.code}` | {error.status} | {error.openai_type} | {error.triton_code} | {meaning} |"
    assert row in rows("errors.md")


def frontend_errors() -> list[type[ErnieError]]:
    return list(leaves(ErnieError, frontend.__name__))


def test_the_frontend_has_errors_of_its_own() -> None:
    assert frontend.BodyTooLarge in frontend_errors()


@pytest.mark.parametrize("error", frontend_errors())
def test_every_error_of_the_frontend_is_in_the_error_document(error: type[ErnieError]) -> None:
    meaning = (error.__doc__ or "").splitlines()[0].rstrip(".")
    assert f"| `{error.code}` | {error.status} | {error.openai_type} | {meaning} |" in rows("errors.md")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize(
    "document",
    [path for path in DOCUMENTS if path.name != "quantization.md"],  # which names FastDeploy's files
    ids=lambda path: path.name,
)
def test_files_named_in_documents_exist(document: Path) -> None:
    sources = [
        str(path)
        for folder in (
            "backend",
            "openai_frontend",
            "kernels",
            "benchmarks",
            "tests",
            "tools",
            "model_repository",
        )
        for path in (ROOT / folder).rglob("*.*")
    ]
    for name in set(re.findall(r"`([\w/]+\.(?:py|cpp|hpp))`", document.read_text())):
        assert any(source.endswith("/" + name) for source in sources), name


def test_limits_of_preprocessing_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "media.md").read_text()
    section = text[text.index("## Preprocessing") : text.index("## Errors")]
    numbers = [
        *(ERNIE_VL.image + PADDLEOCR_VL.image),
        PADDLEOCR_VL.largest_image,
        *(ERNIE_VL.video or ()),
        LOW_DETAIL_PIXELS,
        MAX_IMAGE_PIXELS,
        MAX_FRAME_PIXELS,
    ]
    assert [number for number in numbers if f"{number:,}" not in section] == []
    assert f"| {MAX_JPEG_SCANS} |" in section
    assert f"| {MAX_SECONDS:.0f} s |" in section
    assert f"{MAX_PENDING_BYTES >> 20} MiB" in section
    assert f"{MAX_PREPARED_BYTES >> 30} GiB" in section
    assert f"{DEFAULT_PROCESSOR_CACHE_GIB} GiB" in section
    assert all(f"`{key.name}`" in section for key in fields(ProcessorKwargs))
    assert all(name in section.replace("WebP", "WEBP") for name in FORMATS)
