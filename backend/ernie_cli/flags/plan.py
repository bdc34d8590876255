"""The flags of ``ernie-triton plan``: those of ``serve``, of which it uses the ones that decide memory.

So the command line of a service can be planned as it stands; flags that ``serve`` would refuse are no matter
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ernie_backend.settings.kinds import Choice, Number, String, Switch
from ernie_cli.flags.flag import Flag, Group, LocalizedText, Passed
from ernie_cli.flags.table import FLAGS, GROUPS

P800 = "p800"
DEVICES = ("auto", "cpu", P800, "xpu", "reference")
"""Those of ``serve``, and the name of the card."""
USAGE = "ernie-triton plan [--model] DIRECTORY|ROW|ID [flags]"
DESCRIPTION = LocalizedText(
    "Tell from config.json alone how much memory a model takes, and what fits. Takes the flags of serve;"
    " these decide memory.",
    "仅根据 config.json 计算模型所需内存以及可容纳的规模。接受 serve 的参数；以下参数影响内存。",
)
MEDIA = "--mm-processor-kwargs"
_OURS = (
    Flag(
        "--device-memory",
        Number(high=1e9),
        None,
        "none: 96 on a P800; on a CPU, what is free",
        LocalizedText("GiB of memory of one device", "单个设备的内存（GiB）"),
        Passed(serve=True),
    ),
    Flag(
        "--json",
        Switch(),
        None,
        "off",
        LocalizedText("print one JSON object", "输出一个 JSON 对象"),
        Passed(serve=True),
    ),
)
_REPLACED: Mapping[str, Flag] = {
    "--model": replace(
        FLAGS["--model"],
        kind=String("DIRECTORY|ROW|ID"),
        help=LocalizedText(
            "directory of config.json, a row of FastDeploy's table, or the id of a released model",
            "config.json 所在目录、FastDeploy 表中的一行，或已发布模型的 id",
        ),
    ),
    "--device": replace(
        FLAGS["--device"],
        kind=Choice(DEVICES),
        help=LocalizedText(
            "what to plan for; auto: a P800 for rows and ids, for a directory the device that is found;"
            " xpu: a P800; reference: as cpu",
            "规划的目标设备；auto：表中的行与 id 按 P800，目录按检测到的设备；xpu：按 P800；reference：按 cpu",
        ),
    ),
    MEDIA: replace(
        FLAGS[MEDIA],
        help=LocalizedText(
            "image_max_pixels: pixels of the largest image",
            "image_max_pixels：图片的最大像素数",
        ),
    ),
}
SETTINGS = (
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
    "--max-processor-cache",
)
"""The flags of ``serve`` that decide memory, besides those of the model and the device."""
SHOWN = ("--model", "--device", *SETTINGS)
SHOWN_GROUP = Group(
    LocalizedText("Memory", "内存"), (*(_REPLACED.get(name, FLAGS[name]) for name in SHOWN), *_OURS)
)
PLAN_GROUPS = (
    *(Group(group.title, tuple(_REPLACED.get(flag.name, flag) for flag in group.flags)) for group in GROUPS),
    Group(LocalizedText("Output", "输出"), _OURS),
)
