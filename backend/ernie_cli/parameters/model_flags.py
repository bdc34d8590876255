"""Flags of the model: where it comes from, how it reads prompts, how its weights are held."""

from __future__ import annotations

from ernie_cli.parameters.flag import (
    Choice,
    Flag,
    Group,
    Integer,
    JsonObject,
    NoEffect,
    Passed,
    Refused,
    Switch,
    Text,
    WeightFormat,
    Word,
)

_NO_POOLING = Text("not available; models here generate text", "不提供；这里的模型用于生成文本")
_NO_RELOAD = Text("not available; restart to change the weights", "不提供；更换权重请重启服务")
_FILES = Text("not available; the model directory's own file is read", "不提供；只读取模型目录中的文件")

MODEL = Group(
    Text("Model", "模型"),
    (
        Flag(
            "--revision",
            Word("REVISION"),
            "master",
            "the hub's default",
            Text("branch, tag or commit of a hub model", "模型库中的分支、标签或提交"),
            Passed(serve=True),
        ),
        Flag(
            "--chat-template",
            Word("PATH|JINJA"),
            "the model's",
            "the model's",
            Text(
                "chat template: a path, or the Jinja text itself",
                "对话模板：文件路径，或 Jinja 文本本身",
            ),
            Passed(engine="chat_template", serve=True),
        ),
        Flag(
            "--model-config-name",
            Word("NAME"),
            "config.json",
            "config.json",
            Text("name of the configuration file", "配置文件名"),
            Refused(_FILES, ("config.json",)),
        ),
        Flag(
            "--tokenizer",
            Word("DIRECTORY"),
            "as --model",
            "as --model",
            Text("directory of the tokenizer", "分词器目录"),
            Refused(
                Text(
                    "not available; put the tokenizer's files into the model directory",
                    "不提供；请将分词器文件放入模型目录",
                ),
                ("--model",),
            ),
        ),
        Flag(
            "--tokenizer-base-url",
            Word("URL"),
            "none",
            "none",
            Text("address of a tokenizer service", "分词服务的地址"),
            Refused(_FILES),
        ),
        Flag(
            "--load-choices",
            Choice(("default", "default_v1", "dummy")),
            "default_v1",
            "default",
            Text(
                "default and default_v1 load the weights; dummy takes random ones, for benchmarks",
                "default 与 default_v1 加载权重；dummy 使用随机权重，供性能测试",
            ),
            Passed(engine="load_choices"),
        ),
        Flag(
            "--weight-cache",
            Word("DIRECTORY|off"),
            None,
            "~/.cache/ernie-triton/weights",
            Text(
                "where quantized weights are kept for the next start; off: nowhere",
                "保存量化权重供下次启动使用的目录；off：不保存",
            ),
            Passed(engine="weight_cache"),
        ),
        Flag(
            "--task",
            Choice(("generate", "auto", "embed", "reward")),
            "generate",
            "generate",
            Text("what the model does", "模型的任务"),
            Refused(_NO_POOLING, ("generate", "auto")),
        ),
        Flag(
            "--runner",
            Choice(("auto", "generate", "pooling")),
            "auto",
            "auto",
            Text("kind of model runner", "模型运行器的类型"),
            Refused(_NO_POOLING, ("auto", "generate")),
        ),
        Flag(
            "--convert",
            Choice(("auto", "none", "embed", "reward")),
            "auto",
            "auto",
            Text("conversion of a generating model", "生成模型的转换方式"),
            Refused(_NO_POOLING, ("auto", "none")),
        ),
        Flag(
            "--override-pooler-config",
            JsonObject(),
            "none",
            "none",
            Text("settings of the pooler", "池化层的设置"),
            Refused(_NO_POOLING, ("{}",)),
        ),
        Flag(
            "--model-impl",
            Choice(("auto", "fastdeploy", "paddleformers")),
            "auto",
            "auto",
            Text("implementation of the model", "模型的实现"),
            Refused(
                Text("only this project's own is available", "只提供本项目自己的实现"), ("auto", "fastdeploy")
            ),
        ),
        Flag(
            "--use-warmup",
            Integer(0, 1),
            "0",
            "always",
            Text("run the model once before serving", "服务前先运行一次模型"),
            NoEffect(Text("a step always warms the engine up", "引擎总会预热一步")),
        ),
        Flag(
            "--dynamic-load-weight",
            Switch(),
            "off",
            "off",
            Text("change the weights while serving", "服务中更换权重"),
            Refused(_NO_RELOAD),
        ),
        Flag(
            "--load-strategy",
            Word("NAME"),
            "normal",
            "normal",
            Text("how weights are changed while serving", "服务中更换权重的方式"),
            Refused(_NO_RELOAD, ("normal",)),
        ),
        Flag(
            "--rsync-config",
            JsonObject(),
            "none",
            "none",
            Text("where weights are fetched from while serving", "服务中获取权重的来源"),
            Refused(_NO_RELOAD, ("{}",)),
        ),
    ),
)
COMPUTATION = Group(
    Text("Computation", "计算"),
    (
        Flag(
            "--device",
            Choice(("auto", "cpu", "xpu", "reference")),
            None,
            "auto",
            Text("where the model runs; auto: an XPU if there is one", "模型运行的设备；auto：有 XPU 则用 XPU"),
            Passed(engine="device"),
        ),
        Flag(
            "--threads",
            Integer(1, 1024),
            None,
            "all usable cores",
            Text("threads that compute, on a CPU", "CPU 上的计算线程数"),
            Passed(engine="threads"),
        ),
        Flag(
            "--dtype",
            Choice(("bfloat16", "float32")),
            None,
            "bfloat16",
            Text("type of unquantized weights and of the KV cache", "未量化权重与 KV 缓存的类型"),
            Passed(engine="dtype"),
        ),
        Flag(
            "--quantization",
            WeightFormat(),
            "none",
            "none: as in the checkpoint",
            Text(
                "format of the weights: wint8, wint4, w4a8; what config.json says of its weights comes first",
                "权重的量化格式：wint8、wint4、w4a8；以 config.json 中已量化权重的说明为准",
            ),
            Passed(engine="quantization"),
        ),
        Flag(
            "--activation-dtype",
            Choice(("float32", "bfloat16", "int16", "int8")),
            None,
            "int16",
            Text(
                "how activations are rounded before a layer: bfloat16 for bfloat16 weights, int16 and int8 for"
                " quantized ones; other weights see float32",
                "层输入（激活）的取整方式：bfloat16 用于 bfloat16 权重，int16 与 int8 用于量化权重；"
                "其余权重使用 float32",
            ),
            Passed(engine="activation_dtype"),
        ),
        Flag(
            "--lm-head-fp32",
            Switch(),
            "off",
            "off",
            Text("output head in float32", "输出层使用 float32"),
            Refused(
                Text(
                    "not available on its own; --dtype float32 without --quantization computes all in float32",
                    "不能单独设置；不带 --quantization 的 --dtype float32 全部以 float32 计算",
                )
            ),
        ),
        Flag(
            "--speculative-config",
            JsonObject(),
            "none",
            "none",
            Text("speculative decoding", "投机解码"),
            Refused(Text("speculative decoding is not available yet", "尚不支持投机解码"), ("{}",)),
        ),
        Flag(
            "--plas-attention-config",
            JsonObject(),
            "none",
            "none",
            Text("sparse attention", "稀疏注意力"),
            Refused(Text("not available; attention is exact", "不提供；注意力为精确计算"), ("{}",)),
        ),
        Flag(
            "--graph-optimization-config",
            JsonObject(),
            "none",
            "none",
            Text("compilation of the computing graph", "计算图优化"),
            NoEffect(
                Text("kernels are compiled beforehand; answers are the same", "算子已预先编译；不影响结果")
            ),
        ),
    ),
)
