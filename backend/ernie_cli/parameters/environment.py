"""The environment variables that users of FastDeploy meet, and those that ``serve`` reads. Data only."""

from __future__ import annotations

from dataclasses import dataclass

from ernie_cli.parameters.flag import Text


@dataclass(frozen=True)
class Variable:
    """One environment variable.

    Attributes:
        name: its name.
        help: what it means here; for one without effect, why it has none.
        has_effect: it changes something here.
        is_noticed: it is set on purpose for FastDeploy, so that having no effect deserves a notice.
    """

    name: str
    help: Text
    has_effect: bool = True
    is_noticed: bool = False


def _without_effect(name: str, en: str, zh: str) -> Variable:
    return Variable(name, Text(en, zh), has_effect=False, is_noticed=True)


_LOGS = ("the logs go to standard error", "日志写到标准错误")
_ONE_WAY = ("there is one implementation, chosen from the device", "实现只有一种，由设备决定")
_NO_TRACES = ("no traces are exported yet", "尚不导出链路追踪")
_STOP = ("stop sequences are matched as text, without limits in tokens", "停止词按文本匹配，没有 token 数限制")
_CONNECTIONS = ("--max-concurrency limits the requests", "请求数由 --max-concurrency 限制")

VARIABLES: tuple[Variable, ...] = (
    Variable(
        "FD_API_KEY",
        Text(
            "keys of /v1, with commas between; --api-key wins; empty counts as not set",
            "/v1 的密钥，逗号分隔；--api-key 优先；为空视同未设置",
        ),
    ),
    Variable(
        "FD_MODEL_SOURCE",
        Text(
            "the hub of --model ID: HUGGINGFACE (default), MODELSCOPE or AISTUDIO",
            "--model ID 所用的模型库：HUGGINGFACE（默认）、MODELSCOPE 或 AISTUDIO",
        ),
    ),
    Variable(
        "FD_MODEL_CACHE",
        Text(
            "where downloaded models are kept; default: the hub client's cache",
            "下载模型的存放目录；默认为客户端的缓存",
        ),
    ),
    Variable(
        "HF_ENDPOINT", Text("address of the Hugging Face hub or of a mirror", "Hugging Face 或其镜像的地址")
    ),
    Variable("HF_TOKEN", Text("token for private and gated models", "访问私有或受限模型的令牌")),
    Variable("HF_HUB_OFFLINE", Text("1: take models from the cache only", "1：只使用缓存中的模型")),
    Variable(
        "XPU_VISIBLE_DEVICES",
        Text(
            "XPUs to use; without one in the machine, a notice and the CPU",
            "使用的 XPU；机器上没有时给出提示并使用 CPU",
        ),
    ),
    Variable(
        "ERNIE_CPU_ISA",
        Text(
            "forces an instruction set of the CPU kernels: scalar, avx2, avx512, avx512-vnni, avx512-bf16",
            "强制 CPU 算子使用某一指令集：scalar、avx2、avx512、avx512-vnni、avx512-bf16",
        ),
    ),
    Variable(
        "PADDLE_TRAINERS",
        Text("machines that share the model, without --ips", "未给出 --ips 时，共同承载模型的机器"),
    ),
    Variable(
        "PADDLE_TRAINER_ID",
        Text(
            "which of these machines this is, counted from 0, where its addresses do not tell",
            "本机在其中的序号（从 0 起），用于无法由地址判断之时",
        ),
    ),
    Variable(
        "ERNIE_GROUP_SECRET",
        Text(
            "what a machine must know to join a model over --ips; the same on each",
            "机器经 --ips 加入模型所需的密钥；每台机器相同",
        ),
    ),
    Variable(
        "ERNIE_MODEL_ROOT",
        Text(
            "where plain tritonserver finds the weights of its entries",
            "直接使用 tritonserver 时各模型权重所在目录",
        ),
    ),
    Variable("CUDA_VISIBLE_DEVICES", Text("there is no CUDA backend", "没有 CUDA 后端"), has_effect=False),
    Variable("DO_NOT_TRACK", Text("nothing is tracked in any case", "本来就不收集任何信息"), has_effect=False),
    Variable(
        "FD_USAGE_STATS_SERVER",
        Text("nothing is tracked in any case", "本来就不收集任何信息"),
        has_effect=False,
    ),
    _without_effect(
        "FD_ENABLE_MAX_PREFILL",
        "as many prompts run at once as --max-num-batched-tokens allows",
        "同时计算的提示词数由 --max-num-batched-tokens 决定",
    ),
    _without_effect("FD_LOG_DIR", *_LOGS),
    _without_effect("FD_LOG_BACKUP_COUNT", *_LOGS),
    _without_effect("FD_DEBUG", *_LOGS),
    _without_effect("FD_MAX_STOP_SEQS_NUM", *_STOP),
    _without_effect("FD_STOP_SEQS_MAX_LEN", *_STOP),
    _without_effect(
        "FD_USE_HF_TOKENIZER",
        "the model directory decides which tokenizer is read",
        "由模型目录决定读取哪种分词器",
    ),
    _without_effect("FD_ATTENTION_BACKEND", *_ONE_WAY),
    _without_effect("FD_MOE_BACKEND", *_ONE_WAY),
    _without_effect("FD_SAMPLING_CLASS", *_ONE_WAY),
    _without_effect("FD_USE_MACHETE", *_ONE_WAY),
    _without_effect("FD_DISABLED_RECOVER", "a dead engine is always started again", "引擎退出后总会重新启动"),
    _without_effect("ENABLE_V1_KVCACHE_SCHEDULER", "there is one scheduler", "调度器只有一种"),
    _without_effect(
        "FD_DISABLE_CHUNKED_PREFILL", "long prompts are always computed in pieces", "长提示词总是分块计算"
    ),
    _without_effect(
        "FD_ENC_DEC_BLOCK_NUM", "one pool of blocks serves prompts and answers", "提示词与回答共用同一个块池"
    ),
    _without_effect("FD_SUPPORT_MAX_CONNECTIONS", *_CONNECTIONS),
    _without_effect("FD_DEALER_CONNECTIONS", *_CONNECTIONS),
    _without_effect(
        "FD_ENABLE_MULTI_API_SERVER",
        "--workers gives the number of frontend processes",
        "前端进程数由 --workers 指定",
    ),
    _without_effect("FD_USE_GET_SAVE_OUTPUT_V1", *_ONE_WAY),
    _without_effect("FD_ENABLE_MODEL_LOAD_CACHE", "there is one way to load weights", "权重的加载方式只有一种"),
    _without_effect(
        "FD_LIMIT_THINKING_CONTENT_TRUNCATE_STR", "thinking is not limited yet", "尚不限制思考长度"
    ),
    _without_effect(
        "FD_ENABLE_REQUEST_DISCONNECT_STOP_INFERENCE",
        "a client that leaves always ends its request",
        "客户端断开总会结束其请求",
    ),
    _without_effect("TRACES_ENABLE", *_NO_TRACES),
    _without_effect("TRACES_EXPORTER", *_NO_TRACES),
    _without_effect("EXPORTER_OTLP_ENDPOINT", *_NO_TRACES),
    _without_effect("EXPORTER_OTLP_HEADERS", *_NO_TRACES),
    _without_effect("FD_SERVICE_NAME", *_NO_TRACES),
    _without_effect("FD_HOST_NAME", *_NO_TRACES),
    _without_effect("FD_JOB_ID", *_NO_TRACES),
    _without_effect("INFERENCE_MSG_QUEUE_ID", "there is no such queue", "没有这种队列"),
)
