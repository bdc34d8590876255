"""docs/parameters.md and docs/parameters.zh.md, made from the table.

This module must not know how a command line is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ernie_cli.parameters.environment import VARIABLES
from ernie_cli.parameters.flag import Flag, NoEffect, Passed, Switch, Text
from ernie_cli.parameters.table import GROUPS

FILES = {"en": "parameters.md", "zh": "parameters.zh.md"}
_TITLE = Text("Parameters of `ernie-triton serve`", "`ernie-triton serve` 的参数")
_OTHER = Text("[中文](parameters.zh.md)", "[English](parameters.md)")
_INTRODUCTION = Text(
    "Every flag of FastDeploy's `api_server` is accepted, spelled with `-` or `_`. A flag without effect here"
    " prints a one-line notice with the reason; a flag whose neglect would change answers or safety is refused"
    " unless it asks for what happens anyway. `ernie-triton serve --print-config ...` shows each value and"
    " where it came from. An unknown flag is an error that names the nearest known one."
    " `--model` may be left out before the model: `ernie-triton serve MODEL`.\n\n"
    "This file is made from the table in `backend/ernie_cli/parameters/` by `python -m ernie_cli.parameters`.",
    "接受 FastDeploy `api_server` 的全部参数，`-` 与 `_` 均可。"
    "在这里没有作用的参数会打印一行带原因的提示；"
    "忽略后会改变回答或安全性的参数会被拒绝，除非其取值与默认行为一致。"
    "`ernie-triton serve --print-config ...` 显示每个参数的值及其来源。"
    "未知参数会报错，并给出最接近的已知参数。"
    "模型前的 `--model` 可以省略：`ernie-triton serve MODEL`。\n\n"
    "本文件由 `python -m ernie_cli.parameters` 根据 `backend/ernie_cli/parameters/` 中的表生成。",
)
_HUBS = Text(
    "## Models by id\n\n"
    "`--model OWNER/NAME`, when there is no such directory, is downloaded before anything starts:"
    " configuration, tokenizer, chat template and safetensors, never code or pickles. Files that are there"
    " are not fetched again, and an interrupted file goes on where it stopped. `PaddlePaddle/ERNIE-4.5-*`,"
    " the names of AI Studio, are tried as given and then as `baidu/ERNIE-4.5-*`. ModelScope and AI Studio"
    " need their own clients (`pip install modelscope`, `pip install aistudio-sdk`).\n\n"
    "No real hub could be reached while this was built: downloads were tested against a local stand-in for the"
    " Hugging Face hub, and the calls of the other two clients against their published signatures.",
    "## 按 id 下载模型\n\n"
    "`--model OWNER/NAME` 若不是现有目录，会在启动任何进程之前下载：配置、分词器、对话模板与 safetensors，"
    "不下载代码或 pickle 文件。已有文件不会重新下载，中断的文件会从断点继续。"
    "AI Studio 的名称 `PaddlePaddle/ERNIE-4.5-*` 先按原样查找，再按 `baidu/ERNIE-4.5-*` 查找。"
    "ModelScope 与 AI Studio 需要各自的客户端（`pip install modelscope`、`pip install aistudio-sdk`）。\n\n"
    "开发期间无法访问真实的模型库：下载功能以本地模拟的 Hugging Face 服务测试，"
    "另两种客户端的调用按其公开的函数签名测试。",
)
_DEFAULTS_ZH = {
    "(needed)": "（必填）",
    "all usable cores": "全部可用核心",
    "always": "总是",
    "as --enable-prefix-caching": "同 --enable-prefix-caching",
    "as --model": "同 --model",
    "as the model": "由模型决定",
    "none": "无",
    "none: a Unix socket": "无：Unix 套接字",
    "none: any name is accepted": "无：接受任意名称",
    "none: as in the checkpoint": "无：与检查点一致",
    "none: as many as fit": "无：尽可能多",
    "none: as --max-model-len; 2048 with chunked prefill": "无：同 --max-model-len；分块预填充时为 2048",
    "none: closed": "无：不开放",
    "none: no page of another origin": "无：不接受其他来源的网页",
    "none: the main port": "无：主端口",
    "off": "关",
    "on a CPU 256 + --max-num-seqs, else 2048": "CPU 上为 256 + --max-num-seqs，否则 2048",
    "on": "开",
    "the hub's default": "模型库的默认版本",
    "the model's": "模型自带",
}


class _Words(NamedTuple):
    """The fixed words of one language."""

    heads: str
    ours: str
    no_effect: str
    refused: str
    only: str
    engine: str
    frontend: str
    serve: str
    variables: str
    variable_heads: str
    stop: str


_WORDS = {
    "en": _Words(
        heads="| Flag | Meaning | FastDeploy's default | Default here | Effect here |",
        ours="(ours)",
        no_effect="none: ",
        refused="refused: ",
        only="; accepted: ",
        engine="engine parameter",
        frontend="frontend flag",
        serve="read by `serve`",
        variables="Environment variables",
        variable_heads="| Variable | Meaning | Effect here |",
        stop="; ",
    ),
    "zh": _Words(
        heads="| 参数 | 含义 | FastDeploy 默认值 | 此处默认值 | 此处作用 |",
        ours="（本项目）",
        no_effect="无：",
        refused="拒绝：",
        only="；可接受：",
        engine="引擎参数",
        frontend="前端参数",
        serve="由 `serve` 读取",
        variables="环境变量",
        variable_heads="| 变量 | 含义 | 此处作用 |",
        stop="；",
    ),
}


def document(language: str) -> str:
    """Return the document in a language: ``en`` or ``zh``."""
    words = _WORDS[language]
    parts = [f"# {_in(_TITLE, language)}", _in(_OTHER, language), _in(_INTRODUCTION, language)]
    for group in GROUPS:
        rows = [_flag_row(flag, language) for flag in group.flags]
        parts += [f"## {_in(group.title, language)}", "\n".join([words.heads, "|---|---|---|---|---|", *rows])]
    variables = [_variable_row(*variable, words) for variable in _variables(language)]
    parts += [f"## {words.variables}", "\n".join([words.variable_heads, "|---|---|---|", *variables])]
    return "\n\n".join([*parts, _in(_HUBS, language)]) + "\n"


def write_documents(directory: Path) -> None:
    """Write the documents into ``directory``."""
    for language, name in FILES.items():
        (directory / name).write_text(document(language), encoding="utf-8")


def _in(text: Text, language: str) -> str:
    return text.zh if language == "zh" else text.en


def _flag_row(flag: Flag, language: str) -> str:
    words = _WORDS[language]
    names = [f"`{flag.name}`"]
    if flag.short:
        names.append(f"`{flag.short}`")
    if isinstance(flag.kind, Switch) and flag.kind.has_opposite:
        names.append(f"`--no-{flag.name.removeprefix('--')}`")
    if flag.kind.shown:
        names[-1] += f" {_cell(flag.kind.shown)}"
    fastdeploy = words.ours if flag.fastdeploy is None else _default(flag.fastdeploy, language)
    default = _default(flag.default, language)
    cells = [", ".join(names), _cell(_in(flag.help, language)), fastdeploy, default]
    return f"| {' | '.join([*cells, _cell(_effect(flag, language))])} |"


def _effect(flag: Flag, language: str) -> str:
    words, effect = _WORDS[language], flag.effect
    if isinstance(effect, Passed):
        ways = [f"{words.engine} `{effect.engine}`"] if effect.engine else []
        ways += [f"{words.frontend} `{effect.frontend}`"] if effect.frontend else []
        return words.stop.join([*ways, *([words.serve] if effect.serve else [])])
    if isinstance(effect, NoEffect):
        return words.no_effect + _in(effect.why, language)
    accepted = words.only + ", ".join(f"`{value}`" for value in effect.neutral) if effect.neutral else ""
    return words.refused + _in(effect.why, language) + accepted


def _default(text: str, language: str) -> str:
    return _cell(_DEFAULTS_ZH.get(text, text) if language == "zh" else text)


def _variables(language: str) -> list[tuple[str, str, bool]]:
    return [(each.name, _in(each.help, language), each.has_effect) for each in VARIABLES]


def _variable_row(name: str, meaning: str, has_effect: bool, words: _Words) -> str:
    effect = "" if has_effect else words.no_effect + meaning
    return f"| `{name}` | {meaning if has_effect else ''} | {effect} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
