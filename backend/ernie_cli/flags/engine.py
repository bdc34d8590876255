"""Flags that set an engine setting.

Values, default and English meaning are the setting's (``ernie_backend.settings.engine_settings``). Here stand
FastDeploy's default, the Chinese meaning, and the default in words where it is not one value.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from ernie_backend.settings.engine_settings import SETTINGS
from ernie_backend.settings.kinds import Integer
from ernie_cli.flags.flag import Flag, Group, LocalizedText, Passed, QuantizationName


def engine_flag(
    name: str,
    *,
    fastdeploy: str | None,
    zh: str,
    default: str | None = None,
    **others: Any,  # noqa: ANN401 - fields of Flag
) -> Flag:
    """Return a flag that sets the setting of its name, or that of ``others["effect"]``.

    Args:
        name: of the flag.
        fastdeploy: FastDeploy's default; None: a flag of ours.
        zh: the meaning in Chinese.
        default: ours in words; None: it is the setting's.
        others: further fields of the flag.
    """
    others = {"effect": Passed(engine=name.removeprefix("--").replace("-", "_")), **others}
    setting = SETTINGS[others["effect"].engine]
    others.setdefault("kind", setting.kind)
    default = _spelled(setting.default) if default is None else default
    return Flag(name, fastdeploy=fastdeploy, default=default, help=LocalizedText(setting.meaning, zh), **others)


def _spelled(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value.value if isinstance(value, Enum) else value)


MODEL = Group(
    LocalizedText("Model", "模型"),
    (
        engine_flag(
            "--chat-template",
            fastdeploy="the model's",
            zh="对话模板：文件路径，或 Jinja 文本本身",
            default="the model's",
            effect=Passed("chat_template", serve=True),
        ),
        engine_flag(
            "--load-choices",
            fastdeploy="default_v1",
            zh="default 与 default_v1 加载权重；dummy 使用随机权重，供性能测试",
        ),
        engine_flag(
            "--weight-cache",
            fastdeploy=None,
            zh="保存量化权重供下次启动使用的目录；off：不保存",
            default="~/.cache/ernie-triton/weights",
        ),
    ),
)
COMPUTATION = Group(
    LocalizedText("Computation", "计算"),
    (
        engine_flag("--device", fastdeploy=None, zh="模型运行的设备；auto：有 XPU 则用 XPU"),
        engine_flag("--threads", fastdeploy=None, zh="CPU 上的计算线程数", default="all usable cores"),
        engine_flag("--dtype", fastdeploy=None, zh="未量化权重与 KV 缓存的类型"),
        engine_flag(
            "--quantization",
            fastdeploy="none",
            zh="权重的量化格式：wint8、wint4（专家）、wint4_all（所有层，仅 CPU）、w4a8；"
            "以 config.json 中已量化权重的说明为准",
            default="none: as in the checkpoint",
            kind=QuantizationName(SETTINGS["quantization"].kind),
        ),
        engine_flag(
            "--activation-dtype",
            fastdeploy=None,
            zh="层输入（激活）的取整方式：bfloat16 用于 bfloat16 权重，int16 与 int8 用于量化权重；"
            "其余权重使用 float32；auto 在 int8 乘法更快的 CPU（有 VNNI、无 AMX）上为 int8，"
            "否则为 int16；XPU 上一律为 bfloat16",
        ),
        engine_flag(
            "--tensor-parallel-size",
            fastdeploy="1",
            zh="共同承载模型的设备数；须整除模型的注意力头数与各层宽度",
            short="-tp",
        ),
        engine_flag(
            "--enable-expert-parallel", fastdeploy="off", zh="每个设备承载若干完整专家，而非每个专家的一部分"
        ),
        engine_flag(
            "--ips",
            fastdeploy="none",
            zh="共同承载模型的机器，提供 API 的在前；每台机器运行同一命令",
            default="this one",
            many="+",
        ),
        engine_flag(
            "--engine-worker-queue-port",
            fastdeploy="0",
            zh="与 --ips 同用：第一台机器上供其他机器连接的端口；否则不使用",
            many="+",
        ),
    ),
)
BATCH = Group(
    LocalizedText("Batch, queue and KV cache", "批处理、队列与 KV 缓存"),
    (
        engine_flag("--max-model-len", fastdeploy="2048", zh="提示词与回答的 token 总数上限"),
        engine_flag("--max-num-seqs", fastdeploy="8", zh="同时处理的请求数上限"),
        engine_flag(
            "--max-num-batched-tokens",
            fastdeploy="none: as --max-model-len; 2048 with chunked prefill",
            zh="一步计算的 token 数上限；更长的提示词会分块；进行中的回答要等一步结束",
            default="on a CPU 256 + --max-num-seqs, else 2048",
        ),
        engine_flag(
            "--gpu-memory-utilization", fastdeploy="0.9", zh="可用的设备内存比例；CPU 上为空闲内存的比例"
        ),
        engine_flag(
            "--num-gpu-blocks-override", fastdeploy="none", zh="KV 缓存的块数", default="none: as many as fit"
        ),
        engine_flag("--block-size", fastdeploy="64", zh="KV 缓存每块的 token 数"),
        engine_flag(
            "--kv-cache-dtype",
            fastdeploy=None,
            zh="KV 缓存的类型；auto：模型指定时为 int8，否则与 --dtype 相同",
        ),
        engine_flag("--enable-prefix-caching", fastdeploy="on", zh="开头相同的提示词共用 KV 缓存"),
        engine_flag(
            "--speculative-config",
            fastdeploy="none",
            zh='猜测后续 token，一步之内验证：{"method": "ngram"} 在提示与回答中查找；回答不变',
            default="none",
        ),
        engine_flag(
            "--scheduler-max-size",
            fastdeploy="-1",
            zh="队列中的请求数；超出返回 429",
            default="-1: 512",
            kind=Integer(-1),
            effect=Passed("max_num_waiting", serve=True),
        ),
        engine_flag("--max-num-waiting-tokens", fastdeploy=None, zh="队列中提示词的 token 总数；超出返回 429"),
        engine_flag(
            "--max-waiting-time", fastdeploy="-1", zh="请求在队列中等待的最长秒数；-1 表示不限", default="-1"
        ),
        engine_flag(
            "--max-num-partial-prefills",
            fastdeploy="1",
            zh="同时未算完的提示词数：较短的与长提示词分享每一步；1 表示依次等待",
        ),
        engine_flag(
            "--max-long-partial-prefills",
            fastdeploy="1",
            zh="其中长提示词的数目",
            default="as --max-num-partial-prefills",
        ),
        engine_flag(
            "--long-prefill-token-threshold",
            fastdeploy="0: 4 % of --max-model-len",
            zh="不算长提示词的最大 token 数",
            default="0: 4 % of --max-model-len",
        ),
    ),
)
MEDIA = Group(
    LocalizedText("Images and videos", "图片与视频"),
    (
        engine_flag(
            "--limit-mm-per-prompt",
            fastdeploy='{"image": 1, "video": 1, "audio": 1}',
            zh="每个请求的图片与视频数上限",
            default='{"image": 1, "video": 1}',
        ),
        engine_flag(
            "--mm-processor-kwargs",
            fastdeploy="none",
            zh="图片与视频的缩放方式及视频的抽帧方式；请求可在此限度内调整",
            default="the model's",
        ),
        engine_flag(
            "--mm-boundary-experts",
            fastdeploy=None,
            zh="ERNIE-4.5-VL 中图片或视频前后标记所用的专家：vision 与训练一致，text 与 FastDeploy 一致",
        ),
        engine_flag(
            "--max-processor-cache",
            fastdeploy="-1",
            zh="为后续请求保留的已预处理图片与视频（GiB）；-1：0.25",
            default="-1: 0.25",
        ),
    ),
)
ANSWERS = Group(
    LocalizedText("Answers", "回答"),
    (
        engine_flag("--enable-logprob", fastdeploy="off", zh="允许请求对数概率"),
        engine_flag("--max-logprobs", fastdeploy="20", zh="请求可要求的备选数上限；-1 表示不限"),
        engine_flag("--logprobs-mode", fastdeploy="raw_logprobs", zh="作为对数概率返回的数值"),
        engine_flag(
            "--reasoning-parser",
            fastdeploy="none",
            zh="回答中思考部分的格式；auto：按模型的对话模板；none：保留在文本中",
        ),
        engine_flag(
            "--tool-call-parser",
            fastdeploy="none",
            zh="回答中工具调用的格式；auto：按模型的对话模板；none：保留在文本中",
        ),
    ),
)
