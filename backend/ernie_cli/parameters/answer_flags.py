"""Flags of what answers hold, and of pictures and videos in requests."""

from __future__ import annotations

from ernie_cli.parameters.flag import (
    Choice,
    Flag,
    Group,
    Integer,
    JsonObject,
    NoEffect,
    Number,
    Passed,
    Refused,
    Switch,
    Text,
    Word,
    Words,
)

REASONING_PARSERS = ("ernie-45-vl", "ernie-45-vl-thinking", "ernie-x1", "qwen3", "deepseek")
TOOL_CALL_PARSERS = ("ernie-45-vl-thinking", "ernie-x1")
_NOT_PARSED = Text("not available yet: the whole text stays in content", "尚未提供：全部文本保留在 content 中")
_TEXT_ONLY = Text("the models served today read text only", "目前支持的模型只接受文本")
_NO_LOOP_STOP = Text("stopping on repetition is not available yet", "尚不支持因重复而提前停止")

ANSWERS = Group(
    Text("Answers", "回答"),
    (
        Flag(
            "--reasoning-parser",
            Choice(REASONING_PARSERS),
            "none",
            "none",
            Text("format of the thinking part of answers", "回答中思考部分的格式"),
            NoEffect(_NOT_PARSED),
        ),
        Flag(
            "--tool-call-parser",
            Choice(TOOL_CALL_PARSERS),
            "none",
            "none",
            Text("format of tool calls in answers", "回答中工具调用的格式"),
            NoEffect(_NOT_PARSED),
        ),
        Flag(
            "--tool-parser-plugin",
            Word("PATH"),
            "none",
            "none",
            Text("a Python file with tool parsers of one's own", "自定义工具解析器的 Python 文件"),
            Refused(Text("not available; the server loads no foreign code", "不提供；服务不加载外部代码")),
        ),
        Flag(
            "--guided-decoding-backend",
            Choice(("off", "auto", "xgrammar", "guidance")),
            "off",
            "off",
            Text("what constrains answers to a grammar or schema", "按语法或 schema 约束输出的后端"),
            Refused(
                Text(
                    "constrained answers are not available yet; such requests get 400",
                    "尚不支持约束输出；此类请求返回 400",
                ),
                ("off",),
            ),
        ),
        Flag(
            "--guided-decoding-disable-any-whitespace",
            Switch(),
            "off",
            "off",
            Text("constrained answers without free whitespace", "约束输出中不含任意空白"),
            NoEffect(Text("answers are not constrained yet", "尚不支持约束输出")),
        ),
        Flag(
            "--enable-logprob",
            Switch(has_opposite=True),
            "off",
            "on",
            Text("allow requests to ask for log-probabilities", "允许请求对数概率"),
            Passed(engine="enable_logprob"),
        ),
        Flag(
            "--max-logprobs",
            Integer(-1),
            "20",
            "20",
            Text(
                "most alternatives a request may ask for; -1: no limit", "请求可要求的备选数上限；-1 表示不限"
            ),
            Passed(engine="max_logprobs"),
        ),
        Flag(
            "--logprobs-mode",
            Choice(("raw_logprobs", "raw_logits", "processed_logprobs", "processed_logits")),
            "raw_logprobs",
            "raw_logprobs",
            Text("which values are returned as log-probabilities", "作为对数概率返回的数值"),
            Passed(engine="logprobs_mode"),
        ),
        Flag(
            "--seed",
            Integer(0, (1 << 63) - 1),
            "0",
            "none",
            Text("seed of requests that give none", "未指定 seed 的请求所用的种子"),
            NoEffect(
                Text(
                    "such requests draw a seed of their own; give seed in the request to repeat it",
                    "此类请求各自随机取种子；需要复现请在请求中给出 seed",
                )
            ),
        ),
        Flag(
            "--enable-early-stop",
            Switch(),
            "off",
            "off",
            Text("stop answers that repeat themselves", "回答重复时提前停止"),
            Refused(_NO_LOOP_STOP),
        ),
        Flag(
            "--early-stop-config",
            JsonObject(),
            "none",
            "none",
            Text("settings of --enable-early-stop", "--enable-early-stop 的设置"),
            Refused(_NO_LOOP_STOP, ("{}",)),
        ),
        Flag(
            "--logits-processors",
            Words(),
            "none",
            "none",
            Text("Python classes that change the logits", "修改 logits 的 Python 类"),
            Refused(
                Text(
                    "not available; logit_bias and bad_words in a request are",
                    "不提供；可在请求中使用 logit_bias 与 bad_words",
                )
            ),
        ),
        Flag(
            "--enable-entropy",
            Switch(),
            "off",
            "off",
            Text("log the entropy of answers", "记录回答的熵"),
            NoEffect(Text("nothing of the kind is logged", "不记录此类信息")),
        ),
        Flag(
            "--enable-keep-sampling-mask",
            Switch(),
            "off",
            "off",
            Text("return which tokens could have been drawn", "返回采样时保留的 token"),
            Refused(Text("not available", "不提供")),
        ),
    ),
)
MEDIA = Group(
    Text("Pictures and videos", "图片与视频"),
    (
        Flag(
            "--limit-mm-per-prompt",
            JsonObject(),
            '{"image": 1, "video": 1, "audio": 1}',
            "none",
            Text("most pictures and videos in a request", "每个请求的图片、视频数上限"),
            NoEffect(_TEXT_ONLY),
        ),
        Flag(
            "--mm-processor-kwargs",
            JsonObject(),
            "none",
            "none",
            Text("how pictures and videos are scaled and sampled", "图片缩放与视频抽帧的设置"),
            NoEffect(_TEXT_ONLY),
        ),
        Flag(
            "--enable-mm",
            Switch(),
            "off",
            "as the model",
            Text("pictures and videos (deprecated)", "支持图片与视频（已废弃）"),
            NoEffect(Text("the model's architecture decides", "由模型结构决定")),
        ),
        Flag(
            "--max-encoder-cache",
            Integer(-1),
            "-1",
            "none",
            Text("tokens of encoded pictures that are kept", "缓存的图片编码 token 数"),
            NoEffect(_TEXT_ONLY),
        ),
        Flag(
            "--max-processor-cache",
            Number(-1),
            "-1",
            "none",
            Text("GiB of prepared pictures that are kept", "缓存的预处理图片大小（GiB）"),
            NoEffect(_TEXT_ONLY),
        ),
        Flag(
            "--disable-chunked-mm-input",
            Switch(),
            "off",
            "off",
            Text("do not cut a picture between two steps", "图片不跨步切分"),
            NoEffect(_TEXT_ONLY),
        ),
    ),
)
