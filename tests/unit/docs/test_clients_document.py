"""docs/clients.md has the versions, programs, settings and variables that the tests of clients run with."""

from __future__ import annotations

import re

from clients.environments import NODE_LIBRARIES, PYTHON_LIBRARIES
from clients.test_client_programs import NODE_PROGRAMS, PROGRAMS, PYTHON_PROGRAMS, QUIET
from support.paths import ROOT

DOCUMENT = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")


def test_every_library_is_there_in_its_tested_version_with_its_program() -> None:
    libraries = PYTHON_LIBRARIES | NODE_LIBRARIES
    written = re.findall(r"^\| ([^|]+) \| (\S+) (\S+) \| \[(\S+)\]", DOCUMENT, re.MULTILINE)
    run = {library: program for program, (library, _) in (PYTHON_PROGRAMS | NODE_PROGRAMS).items()}
    assert {library: program for library, _, _, program in written} == run
    for library, package, version, _ in written:
        name, tested = re.split("==|@", libraries[library][0])
        assert (package, version) == (re.sub(r"\[.*\]", "", name), tested)


def test_settings_are_excerpts_of_programs() -> None:
    programs = [path.read_text(encoding="utf-8") for path in PROGRAMS.iterdir()]
    excerpts = re.findall(r"^```\w+\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert len(excerpts) > 3
    for excerpt in excerpts:
        assert any(excerpt in program for program in programs), excerpt


def test_the_variables_that_keep_clients_quiet() -> None:
    assert dict(re.findall(r"^\| `(\w+)=(\w+)` \|", DOCUMENT, re.MULTILINE)) == QUIET
