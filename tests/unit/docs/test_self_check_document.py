"""docs/xpu.md says of each line of the self-check what a failure means."""

import re

from ernie_backend.selfcheck import models, ops, probes
from support.paths import ROOT


def test_every_line_has_its_meaning() -> None:
    section = (ROOT / "docs" / "xpu.md").read_text().split("## Self-check")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \| (.+) \|$", section, re.MULTILINE)
    patterns = [
        re.escape(name).replace(re.escape("..."), ".+")
        for names, _ in rows
        for name in re.findall("`(.*?)`", names)
    ]
    lines = [*ops._PROGRAMS, *probes._PROBES, *(f"model {family} bf16" for family in models.FAMILIES)]
    lines += [f"rate, {name}" for name in ("bf16 product", "tokens of 1 request", "tokens of 16 requests")]
    lines += [f"rate, one token with {what}" for what in ("a larger cache", "longer rotary tables")]
    lines += [
        "rate, choice of tokens",
        "CPU fallbacks",
        "XPU_PADDLE_FC_FLOAT",
        "rate, bf16 product, XPU_PADDLE_FC_FLOAT=1",
    ]
    assert [line for line in lines if not any(re.fullmatch(each, line) for each in patterns)] == []
    unused = [each for each in patterns if not any(re.fullmatch(each, line) for line in lines)]
    assert unused == []
