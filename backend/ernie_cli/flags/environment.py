"""The environment variables that ``serve`` reads."""

from __future__ import annotations

from collections.abc import Mapping

from ernie_cli.flags.flag import LocalizedText

READ: Mapping[str, LocalizedText] = {
    "FD_API_KEY": LocalizedText(
        "comma-separated keys of /v1; --api-key takes precedence; empty counts as unset",
        "/v1 的密钥，逗号分隔；--api-key 优先；为空视同未设置",
    ),
    "FD_MODEL_SOURCE": LocalizedText(
        "the hub of --model ID: HUGGINGFACE (default), MODELSCOPE or AISTUDIO",
        "--model ID 所用的模型库：HUGGINGFACE（默认）、MODELSCOPE 或 AISTUDIO",
    ),
    "FD_MODEL_CACHE": LocalizedText(
        "where downloaded models are kept; default: the hub client's cache",
        "下载模型的存放目录；默认为客户端的缓存",
    ),
    "HF_ENDPOINT": LocalizedText(
        "address of the Hugging Face hub or of a mirror", "Hugging Face 或其镜像的地址"
    ),
    "HF_TOKEN": LocalizedText("token for private and gated models", "访问私有或受限模型的令牌"),
    "HF_HUB_OFFLINE": LocalizedText("1: use cached models only", "1：只使用缓存中的模型"),
    "XPU_VISIBLE_DEVICES": LocalizedText(
        "XPUs to use; without one in the machine, a notice and the CPU",
        "使用的 XPU；机器上没有时给出提示并使用 CPU",
    ),
    "ERNIE_XPU_UNCHECKED": LocalizedText(
        "1: start although a requirement of the XPUs is not met (docs/xpu.md)",
        "1：即使不满足 XPU 的要求（见 docs/xpu.md）也启动",
    ),
    "ERNIE_XPU_OPS": LocalizedText(
        "ops on XPUs: auto (FastDeploy's if they are installed), fastdeploy or composed, the slow fallback",
        "XPU 上的算子：auto（已安装 FastDeploy 时用其算子）、fastdeploy 或 composed（较慢的后备实现）",
    ),
    "ERNIE_CPU_ISA": LocalizedText(
        "forces an instruction set of the CPU kernels: scalar, avx2, avx2-vnni, avx512, avx512-vnni, "
        "avx512-bf16, avx512-amx",
        "强制 CPU 算子使用某一指令集：scalar、avx2、avx2-vnni、avx512、avx512-vnni、avx512-bf16、avx512-amx",
    ),
    "PADDLE_TRAINERS": LocalizedText(
        "machines that share the model, without --ips", "未给出 --ips 时，共同承载模型的机器"
    ),
    "PADDLE_TRAINER_ID": LocalizedText(
        "index of this machine among them, from 0, if its addresses do not determine it",
        "本机在其中的序号（从 0 起），用于无法由地址判断之时",
    ),
    "ERNIE_GROUP_SECRET": LocalizedText(
        "secret that a machine needs to join a model over --ips; the same on each",
        "机器经 --ips 加入模型所需的密钥；每台机器相同",
    ),
    "ERNIE_MODEL_ROOT": LocalizedText(
        "where plain tritonserver finds the weights of its entries",
        "直接使用 tritonserver 时各模型权重所在目录",
    ),
}
