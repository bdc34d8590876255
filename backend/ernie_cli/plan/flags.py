"""The flags of ``ernie-triton plan``: those of ``serve``, of which it uses the ones that decide memory.

So the command line of a service can be planned as it stands; flags that ``serve`` would refuse are no matter
here. This module must not know how memory is planned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ernie_backend.weights.precision import QUANTIZATIONS
from ernie_cli.parameters.flag import Choice, Flag, Group, Number, Passed, Switch, Text, WeightFormat, Word
from ernie_cli.parameters.table import FLAGS, GROUPS

P800 = "p800"
DEVICES = ("auto", "cpu", P800)
USAGE = "ernie-triton plan [--model] DIRECTORY|ROW|ID [flags]"
DESCRIPTION = Text(
    "Tell from config.json alone how much memory a model takes, and what fits. Takes the flags of serve;"
    " these decide memory.",
    "仅根据 config.json 计算模型所需内存以及可容纳的规模。接受 serve 的参数；以下参数影响内存。",
)
MEDIA = "--mm-processor-kwargs"
_OURS = (
    Flag(
        "--device-memory",
        Number(0.001),
        None,
        "none: 96 on a P800; on a CPU, what is free",
        Text("GiB of memory of one device", "单个设备的内存（GiB）"),
        Passed(serve=True),
    ),
    Flag(
        "--json",
        Switch(),
        None,
        "off",
        Text("print one JSON object", "输出一个 JSON 对象"),
        Passed(serve=True),
    ),
)
_REPLACED: Mapping[str, Flag] = {
    "--model": replace(
        FLAGS["--model"],
        kind=Word("DIRECTORY|ROW|ID"),
        help=Text(
            "directory of config.json, a row of FastDeploy's table, or the id of a released model",
            "config.json 所在目录、FastDeploy 表中的一行，或已发布模型的 id",
        ),
    ),
    "--device": replace(
        FLAGS["--device"],
        kind=Choice(DEVICES),
        help=Text(
            "what to plan for; auto: a P800 for rows and ids, for a directory the device that is found",
            "规划的目标设备；auto：表中的行与 id 按 P800，目录按检测到的设备",
        ),
    ),
    MEDIA: replace(
        FLAGS[MEDIA],
        help=Text(
            "image_max_pixels: pixels of the largest picture",
            "image_max_pixels：图片的最大像素数",
        ),
        effect=Passed(serve=True),
    ),
    "--quantization": replace(
        FLAGS["--quantization"],
        kind=WeightFormat((*QUANTIZATIONS, "none")),
        help=Text(
            "format of the weights: " + ", ".join(QUANTIZATIONS),
            "权重的量化格式：" + "、".join(QUANTIZATIONS),
        ),
    ),
}
SHOWN = (
    "--model",
    "--device",
    "--tensor-parallel-size",
    "--enable-expert-parallel",
    "--quantization",
    "--dtype",
    "--kv-cache-dtype",
    "--max-model-len",
    "--max-num-seqs",
    "--max-num-batched-tokens",
    "--gpu-memory-utilization",
    "--num-gpu-blocks-override",
    "--block-size",
    MEDIA,
)
"""The flags of ``serve`` that decide memory."""
SHOWN_GROUP = Group(Text("Memory", "内存"), (*(_REPLACED.get(name, FLAGS[name]) for name in SHOWN), *_OURS))
PLAN_GROUPS = (
    *(Group(group.title, tuple(_REPLACED.get(flag.name, flag) for flag in group.flags)) for group in GROUPS),
    Group(Text("Output", "输出"), _OURS),
)
