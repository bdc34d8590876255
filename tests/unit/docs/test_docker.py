"""docker/: what its files name exists, and the commands in them are commands of this project."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from ernie_cli.flags.parser import read_flags
from ernie_cli.main import COMMANDS
from support.dockerfile import Instruction, read_dockerfile
from support.paths import ROOT

DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("Dockerfile.*"))
IGNORED = {line.strip("*/") for line in (ROOT / ".dockerignore").read_text().split()}


def named(instructions: list[Instruction], name: str) -> list[str]:
    return [each.rest for each in instructions if each.name == name]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_a_dockerfile_copies_is_there(path: Path) -> None:
    copied = [
        source
        for rest in named(read_dockerfile(path), "COPY")
        if not rest.startswith("--from=")
        for source in rest.split()[:-1]
    ]
    assert copied
    assert [each for each in copied if not (ROOT / each).exists()] == []
    assert not IGNORED & {Path(each).parts[0] for each in copied}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_has_only_known_instructions_and_no_credentials(path: Path) -> None:
    instructions = read_dockerfile(path)
    known = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "HEALTHCHECK"}
    assert {each.name for each in instructions} <= known | {"STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert named(instructions, "EXPOSE") == ["8000"]
    assert all("curl" not in rest and "wget" not in rest for rest in named(instructions, "RUN"))


@pytest.mark.parametrize("kind", ["cpu", "frontend"])
def test_images_for_cpus_run_as_a_user_without_rights(kind: str) -> None:
    assert named(read_dockerfile(DOCKER / f"Dockerfile.{kind}"), "USER") == ["ernie"]


@pytest.mark.parametrize("kind", ["cpu", "xpu"])
def test_what_an_image_runs_is_a_command(kind: str) -> None:
    instructions = read_dockerfile(DOCKER / f"Dockerfile.{kind}")
    (entry,) = named(instructions, "ENTRYPOINT")
    (command,) = named(instructions, "CMD")
    assert json.loads(entry) == ["ernie-triton"]
    name, *arguments = json.loads(command)
    assert name in COMMANDS
    if name == "serve":
        assert read_flags(arguments)


def test_commands_in_the_comments_have_known_flags() -> None:
    comments = [
        line.lstrip("# ").strip()
        for path in DOCKERFILES
        for line in path.read_text().replace("\\\n#", "").splitlines()
        if (line.startswith("#") and ":cpu serve " in line) or ":xpu serve " in line
    ]
    assert len(comments) == 2
    for comment in comments:
        words = shlex.split(comment)
        assert read_flags(words[words.index("serve") + 1 :])


def test_the_extra_for_cards_can_be_resolved_anywhere() -> None:
    """What PyPI lacks is in the requirements with an index of its own, each with its version."""
    project = (ROOT / "pyproject.toml").read_text()
    extras = re.search(r"\[project.optional-dependencies\]\n(.*?)\n\[", project, re.DOTALL)
    assert extras is not None
    assert '\nxpu = ["ernie-triton[triton,video]"]' in extras[1]
    lines = (DOCKER / "requirements-xpu.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    assert pins.keys() == {"paddlepaddle-xpu", "fastdeploy-xpu"}
    assert not [name for name in pins if f'"{name}' in project]
    steps = " ".join(named(read_dockerfile(DOCKER / "Dockerfile.xpu"), "RUN"))
    assert steps.index("requirements-xpu.txt") < steps.index('".[xpu]"')


def test_services_are_built_from_these_files() -> None:
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    for service in services.values():
        assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert service["cap_drop"] == ["ALL"]
    assert list(services) == ["triton", "frontend"]
    assert "ports" not in services["triton"]
