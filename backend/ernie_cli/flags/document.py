"""docs/parameters.md and docs/parameters.zh.md, made from the table."""

from __future__ import annotations

from pathlib import Path

from ernie_cli.flags.environment import READ
from ernie_cli.flags.fastdeploy import NO_EFFECT, REFUSED, USUAL_VARIABLES, VARIABLES
from ernie_cli.flags.flag import Flag, Group, LocalizedText, NoEffect, Passed, Refused
from ernie_cli.flags.table import GROUPS

FILES = {"en": "parameters.md", "zh": "parameters.zh.md"}
_TITLE = LocalizedText("Parameters of `ernie-triton serve`", "`ernie-triton serve` 的参数")
_OTHER = LocalizedText("[中文](parameters.zh.md)", "[English](parameters.md)")
_INTRODUCTION = LocalizedText(
    "Every flag of FastDeploy's `api_server` is accepted, spelled with `-` or `_`. A flag without effect here"
    " prints a one-line notice with the reason; one that cannot be ignored without changing answers or safety"
    " is refused, unless its value asks for what happens anyway. `ernie-triton serve --print-config ...` shows"
    " each value and its source. An unknown flag is an error that names the nearest known one."
    " `--model` may be left out before the model: `ernie-triton serve MODEL`.\n\n"
    "This file is generated from the table in `backend/ernie_cli/flags/` by `python -m ernie_cli.flags`.",
    "接受 FastDeploy `api_server` 的全部参数，`-` 与 `_` 均可。"
    "在这里没有作用的参数会打印一行带原因的提示；"
    "忽略后会改变回答或安全性的参数会被拒绝，除非其取值与默认行为一致。"
    "`ernie-triton serve --print-config ...` 显示每个参数的值及其来源。"
    "未知参数会报错，并给出最接近的已知参数。"
    "模型前的 `--model` 可以省略：`ernie-triton serve MODEL`。\n\n"
    "本文件由 `python -m ernie_cli.flags` 根据 `backend/ernie_cli/flags/` 中的表生成。",
)
_HUBS = LocalizedText(
    "## Models by id\n\n"
    "`--model OWNER/NAME`, when there is no such directory, is downloaded before anything starts:"
    " configuration, tokenizer, chat template and safetensors, never code or pickles. Files that are there"
    " are not fetched again, and an interrupted file continues where it stopped. `PaddlePaddle/ERNIE-4.5-*`,"
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
    "0: 4 % of --max-model-len": "0：--max-model-len 的 4 %",
    "all usable cores": "全部可用核心",
    "as --max-num-partial-prefills": "同 --max-num-partial-prefills",
    "any public host": "任意公网主机",
    "as --model": "同 --model",
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
    "this one": "本机",
}
_HEADS = LocalizedText(
    "| Flag | Meaning | FastDeploy's default | Default here | Effect here |",
    "| 参数 | 含义 | FastDeploy 默认值 | 此处默认值 | 此处作用 |",
)
_HEADS_WITHOUT_EFFECT = LocalizedText(
    "| Flag | Meaning | FastDeploy's default | Why |", "| 参数 | 含义 | FastDeploy 默认值 | 原因 |"
)
_VARIABLE_HEADS = LocalizedText("| Variable | Meaning | Effect here |", "| 变量 | 含义 | 此处作用 |")
_VARIABLES = LocalizedText("Environment variables", "环境变量")
_OURS = LocalizedText("(ours)", "（本项目）")
_NONE, _ACCEPTED = LocalizedText("none: ", "无："), LocalizedText("; accepted: ", "；可接受：")
_ENGINE = LocalizedText("engine parameter", "引擎参数")
_FRONTEND = LocalizedText("frontend flag", "前端参数")
_SERVE = LocalizedText("read by `serve`", "由 `serve` 读取")


def document(language: str) -> str:
    """Return the document in a language: ``en`` or ``zh``."""
    parts = [f"# {_TITLE.to(language)}", _OTHER.to(language), _INTRODUCTION.to(language)]
    for group in GROUPS:
        parts += [f"## {group.title.to(language)}", _flag_table(group, language)]
    parts += [f"## {_VARIABLES.to(language)}", _variable_table(language)]
    return "\n\n".join([*parts, _HUBS.to(language)]) + "\n"


def write_documents(directory: Path) -> None:
    """Write the documents into ``directory``."""
    for language, name in FILES.items():
        (directory / name).write_text(document(language), encoding="utf-8")


def _flag_table(group: Group, language: str) -> str:
    heads = (_HEADS_WITHOUT_EFFECT if group in (NO_EFFECT, REFUSED) else _HEADS).to(language)
    rows = [_row(_cells(flag, language)) for flag in group.flags]
    return "\n".join([heads, "|" + "---|" * heads.count(" | ") + "---|", *rows])


def _cells(flag: Flag, language: str) -> list[str]:
    names = [f"`{name}`" for name in (flag.name, flag.short, flag.opposite) if name]
    if flag.kind.shown:
        names[-1] += f" {flag.kind.shown}"
    ours = _OURS.to(language) if flag.fastdeploy is None else _default(flag.fastdeploy, language)
    cells = [", ".join(names), flag.help.to(language), ours]
    if isinstance(flag.effect, NoEffect):
        return [*cells, flag.effect.why.to(language)]
    if isinstance(flag.effect, Refused):
        accepted = ", ".join(f"`{value}`" for value in flag.effect.neutral)
        return [*cells, flag.effect.why.to(language) + (accepted and _ACCEPTED.to(language) + accepted)]
    return [*cells, _default(flag.default, language), _effect(flag, flag.effect, language)]


def _effect(flag: Flag, effect: Passed, language: str) -> str:
    ways = [f"{_ENGINE.to(language)} `{effect.engine}`"] if effect.engine else []
    ways += [f"{_FRONTEND.to(language)} `{flag.name}`"] if effect.frontend else []
    ways += [_SERVE.to(language)] if effect.serve else []
    return ("；" if language == "zh" else "; ").join(ways)


def _default(text: str, language: str) -> str:
    return _DEFAULTS_ZH.get(text, text) if language == "zh" else text


def _variable_table(language: str) -> str:
    rows = [[f"`{name}`", meaning.to(language), ""] for name, meaning in READ.items()]
    rows += [
        [f"`{name}`", "", _NONE.to(language) + why.to(language)]
        for name, why in {**USUAL_VARIABLES, **VARIABLES}.items()
    ]
    return "\n".join([_VARIABLE_HEADS.to(language), "|---|---|---|", *map(_row, rows)])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
