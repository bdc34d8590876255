"""Flags of the OpenAI frontend, of Triton and of ``serve`` itself."""

from __future__ import annotations

from ernie_backend.settings.kinds import Integer, Kind, String, Switch
from ernie_cli.flags.engine import engine_flag
from ernie_cli.flags.flag import ApiKeys, Flag, Group, LocalizedText, Passed

DEFAULT_HOST = "0.0.0.0"  # noqa: S104 - as FastDeploy; the frontend warns when there is no API key
DEFAULT_PORT = 8000
DEFAULT_DRAIN_S = 10
_PORT, _OPEN_PORT = Integer(0, 65535), Integer(1, 65535)
_SERVE, _FRONTEND, _BOTH = Passed(serve=True), Passed(frontend=True), Passed(frontend=True, serve=True)


def _flag(name: str, kind: Kind, defaults: tuple[str | None, str], en: str, zh: str, effect: Passed) -> Flag:
    """Return a flag of the frontend or of ``serve`` itself; ``defaults`` are FastDeploy's and ours."""
    return Flag(name, kind, *defaults, LocalizedText(en, zh), effect)


SERVER = Group(
    LocalizedText("Service", "服务"),
    (
        _flag(
            "--model",
            String("DIRECTORY|ID"),
            ("baidu/ernie-45-turbo", "(needed)"),
            "directory of the model (config.json, weights, tokenizer), or an id to download from a hub",
            "模型目录（config.json、权重、分词器），或从模型库下载的模型 id",
            Passed(engine="model", serve=True),
        ),
        _flag(
            "--revision",
            String("REVISION"),
            ("master", "the hub's default"),
            "branch, tag or commit of a hub model",
            "模型库中的分支、标签或提交",
            _SERVE,
        ),
        _flag(
            "--port",
            _PORT,
            ("8000", str(DEFAULT_PORT)),
            "port of the OpenAI API; 0: a free one",
            "OpenAI API 的端口；0 表示任选空闲端口",
            _BOTH,
        ),
        _flag(
            "--host",
            String("ADDRESS"),
            (DEFAULT_HOST, DEFAULT_HOST),
            "address the OpenAI API listens on",
            "OpenAI API 监听的地址",
            _BOTH,
        ),
        Flag(
            "--api-key",
            ApiKeys(),
            "none",
            "$FD_API_KEY",
            LocalizedText(
                "API key of /v1; repeatable; other users can read it in the process list",
                "/v1 要求的密钥；可重复给出；其他用户可在进程列表中看到",
            ),
            _SERVE,
            many="repeat",
            is_secret=True,
        ),
        _flag(
            "--api-key-file",
            String("PATH"),
            (None, "none"),
            "file of further keys, one per line, # begins a comment; read again when it changes",
            "存放更多密钥的文件，每行一个，# 开头为注释；文件变化后重新读取",
            _BOTH,
        ),
        _flag(
            "--allowed-origins",
            String("JSON"),
            (None, "none: no page of another origin"),
            "origins whose web pages may use the API (CORS), like '[\"https://a.example\"]'; vLLM's flag",
            "其网页可以使用 API 的来源（CORS），如 '[\"https://a.example\"]'；与 vLLM 同名",
            _FRONTEND,
        ),
        _flag(
            "--allow-credentials",
            Switch(),
            (None, "off"),
            "the pages of --allowed-origins may send cookies and certificates; vLLM's flag",
            "允许 --allowed-origins 的网页发送 cookie 与证书；与 vLLM 同名",
            _FRONTEND,
        ),
        _flag(
            "--allowed-methods",
            String("JSON"),
            (None, '["*"]'),
            "methods that the pages of --allowed-origins may use; vLLM's flag",
            "--allowed-origins 的网页可用的方法；与 vLLM 同名",
            _FRONTEND,
        ),
        _flag(
            "--allowed-headers",
            String("JSON"),
            (None, '["*"]'),
            "headers that the pages of --allowed-origins may send; vLLM's flag",
            "--allowed-origins 的网页可发送的请求头；与 vLLM 同名",
            _FRONTEND,
        ),
        _flag(
            "--disable-fastapi-docs",
            Switch(),
            (None, "off"),
            "serve neither /docs nor /openapi.json; vLLM's flag",
            "不提供 /docs 与 /openapi.json；与 vLLM 同名",
            _FRONTEND,
        ),
        _flag(
            "--allowed-media-domains",
            String("HOSTS"),
            (None, "any public host"),
            "hosts that images and videos are downloaded from, comma-separated; .example.com is every host "
            "below example.com; like vLLM's flag",
            "允许下载图片与视频的主机，以逗号分隔；.example.com 表示 example.com 下的所有主机；与 vLLM 类似",
            _FRONTEND,
        ),
        _flag(
            "--allow-private-media",
            Switch(),
            (None, "off"),
            "images and videos may also be downloaded from private and loopback addresses",
            "允许从私有地址与本机地址下载图片与视频",
            _FRONTEND,
        ),
        _flag(
            "--allowed-local-media-path",
            String("DIRECTORY"),
            (None, "none"),
            "directory whose files clients may send to the model as file:///PATH; vLLM's flag",
            "客户端可用 file:///PATH 让模型读取的文件所在目录；与 vLLM 同名",
            _FRONTEND,
        ),
        engine_flag(
            "--served-model-name",
            fastdeploy="none",
            zh="请求可用的唯一模型名（“default”始终可用）",
            default="none: any name is accepted",
            effect=Passed("served_model_name", frontend=True, serve=True),
        ),
        _flag(
            "--workers",
            Integer(1, 256),
            ("1", "1"),
            "processes of the OpenAI frontend",
            "OpenAI 前端的进程数",
            _FRONTEND,
        ),
        _flag(
            "--max-concurrency",
            Integer(1),
            ("512", "512"),
            "generation requests in flight over all workers; above it 429",
            "所有进程合计的并发请求上限；超出返回 429",
            _FRONTEND,
        ),
        _flag(
            "--timeout-graceful-shutdown",
            Integer(0),
            ("0", str(DEFAULT_DRAIN_S)),
            "seconds for answers in flight when the service stops; 0: no limit",
            "停止服务时留给未完成回答的秒数；0 表示一直等到完成",
            _BOTH,
        ),
        _flag(
            "--metrics-port",
            _PORT,
            ("none: the main port", "none: the main port"),
            "port of the frontend's metrics",
            "前端指标的端口",
            _BOTH,
        ),
        _flag(
            "--triton-http-port",
            _OPEN_PORT,
            (None, "none: closed"),
            "loopback port of tritonserver's HTTP, for inference and health only; no API key is required",
            "tritonserver HTTP 的本机回环端口，仅供推理与健康检查；不要求 API 密钥",
            _SERVE,
        ),
        _flag(
            "--triton-grpc-port",
            _OPEN_PORT,
            (None, "none: a Unix socket"),
            "loopback port of tritonserver's gRPC, model control included; no API key is required",
            "tritonserver gRPC 的本机回环端口，包括模型加载；不要求 API 密钥",
            _SERVE,
        ),
        _flag(
            "--triton-metrics-port",
            _OPEN_PORT,
            (None, "none: closed"),
            "loopback port of tritonserver's metrics",
            "tritonserver 指标的本机回环端口",
            _SERVE,
        ),
        _flag(
            "--print-config",
            Switch(),
            (None, "off"),
            "print each value and its source, then exit without starting anything",
            "打印每个参数的值及其来源，然后退出，不启动任何进程",
            _SERVE,
        ),
    ),
)
