"""Flags of the HTTP service and of what ``serve`` starts around the engine."""

from __future__ import annotations

from ernie_cli.parameters.flag import (
    Flag,
    Group,
    Integer,
    Keys,
    NoEffect,
    Passed,
    Refused,
    Switch,
    Text,
    Word,
    Words,
)

PORT = Integer(0, 65535)
_NO_KEY = Text("no API key is asked for", "不要求 API 密钥")

SERVER = Group(
    Text("Service", "服务"),
    (
        Flag(
            "--model",
            Word("DIRECTORY|ID"),
            "baidu/ernie-45-turbo",
            "(needed)",
            Text(
                "directory of the model (config.json, weights, tokenizer), or an id to download from a hub",
                "模型目录（config.json、权重、分词器），或从模型库下载的模型 id",
            ),
            Passed(engine="model", serve=True),
        ),
        Flag(
            "--port",
            PORT,
            "8000",
            "8000",
            Text("port of the OpenAI API; 0 takes a free one", "OpenAI API 的端口；0 表示任选空闲端口"),
            Passed(frontend="--port", serve=True),
        ),
        Flag(
            "--host",
            Word("ADDRESS"),
            "0.0.0.0",  # noqa: S104 - as FastDeploy; the frontend warns when there is no API key
            "0.0.0.0",  # noqa: S104
            Text("address the OpenAI API listens on", "OpenAI API 监听的地址"),
            Passed(frontend="--host", serve=True),
        ),
        Flag(
            "--api-key",
            Keys(is_repeated=True, shown="KEY"),
            "none",
            "$FD_API_KEY",
            Text(
                "key that /v1 asks for; repeatable; other users read it in the list of processes",
                "/v1 要求的密钥；可重复给出；其他用户可在进程列表中看到",
            ),
            Passed(serve=True),
            is_secret=True,
        ),
        Flag(
            "--api-key-file",
            Word("PATH"),
            None,
            "none",
            Text(
                "file of further keys, one a line, # begins a comment; read again when it changes",
                "存放更多密钥的文件，每行一个，# 开头为注释；文件变化后重新读取",
            ),
            Passed(frontend="--api-key-file", serve=True),
        ),
        Flag(
            "--allowed-origins",
            Word("JSON"),
            None,
            "none: no page of another origin",
            Text(
                "origins whose web pages may use the API (CORS), like '[\"https://a.example\"]'; vLLM's flag",
                "其网页可以使用 API 的来源（CORS），如 '[\"https://a.example\"]'；与 vLLM 同名",
            ),
            Passed(frontend="--allowed-origins"),
        ),
        Flag(
            "--allow-credentials",
            Switch(),
            None,
            "off",
            Text(
                "the pages of --allowed-origins may send cookies and certificates; vLLM's flag",
                "允许 --allowed-origins 的网页发送 cookie 与证书；与 vLLM 同名",
            ),
            Passed(frontend="--allow-credentials"),
        ),
        Flag(
            "--allowed-methods",
            Word("JSON"),
            None,
            '["*"]',
            Text(
                "methods that the pages of --allowed-origins may use; vLLM's flag",
                "--allowed-origins 的网页可用的方法；与 vLLM 同名",
            ),
            Passed(frontend="--allowed-methods"),
        ),
        Flag(
            "--allowed-headers",
            Word("JSON"),
            None,
            '["*"]',
            Text(
                "headers that the pages of --allowed-origins may send; vLLM's flag",
                "--allowed-origins 的网页可发送的请求头；与 vLLM 同名",
            ),
            Passed(frontend="--allowed-headers"),
        ),
        Flag(
            "--disable-fastapi-docs",
            Switch(),
            None,
            "off",
            Text(
                "serve neither /docs nor /openapi.json; vLLM's flag",
                "不提供 /docs 与 /openapi.json；与 vLLM 同名",
            ),
            Passed(frontend="--disable-fastapi-docs"),
        ),
        Flag(
            "--served-model-name",
            Word("NAME"),
            "none",
            "none: any name is accepted",
            Text(
                "the only model name that requests may give, besides 'default'",
                "请求可用的唯一模型名（“default”始终可用）",
            ),
            Passed(engine="served_model_name", frontend="--served-model-name", serve=True),
        ),
        Flag(
            "--workers",
            Integer(1, 256),
            "1",
            "1",
            Text("processes of the OpenAI frontend", "OpenAI 前端的进程数"),
            Passed(frontend="--workers"),
        ),
        Flag(
            "--max-concurrency",
            Integer(1),
            "512",
            "512",
            Text(
                "requests in flight over all workers; one more gets 429",
                "所有进程合计的并发请求上限；超出返回 429",
            ),
            Passed(frontend="--max-concurrency"),
        ),
        Flag(
            "--max-waiting-time",
            Integer(-1),
            "-1",
            "-1",
            Text(
                "seconds a request may wait in the queue; -1: without limit",
                "请求在队列中等待的最长秒数；-1 表示不限",
            ),
            Passed(engine="max_waiting_time"),
        ),
        Flag(
            "--timeout-graceful-shutdown",
            Integer(0),
            "0",
            "10",
            Text(
                "seconds that answers in flight get when the service ends; 0: as long as they take",
                "停止服务时留给未完成回答的秒数；0 表示一直等到完成",
            ),
            Passed(frontend="--timeout-graceful-shutdown", serve=True),
        ),
        Flag(
            "--timeout",
            Integer(0),
            "0",
            "0",
            Text(
                "seconds of silence after which a gunicorn worker is killed", "gunicorn 进程无响应多少秒后被杀"
            ),
            NoEffect(
                Text(
                    "there is no gunicorn; a hanging engine is found by its heartbeat",
                    "没有 gunicorn；引擎挂起由心跳发现",
                )
            ),
        ),
        Flag(
            "--metrics-port",
            PORT,
            "none: the main port",
            "none: the main port",
            Text("port of the frontend's metrics", "前端指标的端口"),
            Passed(frontend="--metrics-port", serve=True),
        ),
        Flag(
            "--controller-port",
            Integer(-1, 65535),
            "-1",
            "-1",
            Text("port of FastDeploy's scheduler controller", "FastDeploy 调度控制器的端口"),
            NoEffect(Text("there is no controller", "没有该控制器")),
        ),
        Flag(
            "--engine-worker-queue-port",
            Words(shown="PORT"),
            "0",
            "8002",
            Text(
                "with --ips: port of the first machine where the others meet it; otherwise unused",
                "与 --ips 同用：第一台机器上供其他机器连接的端口；否则不使用",
            ),
            Passed(engine="engine_worker_queue_port"),
        ),
        Flag(
            "--cache-queue-port",
            Words(shown="PORT"),
            "0",
            "none",
            Text("port of the KV cache's transfer queue", "KV 缓存传输队列的端口"),
            NoEffect(Text("the KV cache lives in the engine", "KV 缓存就在引擎进程内")),
        ),
        Flag(
            "--enable-mm-output",
            Switch(),
            "off",
            "off",
            Text("answer contents are lists of parts", "回答内容以列表形式返回"),
            Refused(Text("not available; answers are strings", "不提供；回答为字符串")),
        ),
        Flag(
            "--triton-http-port",
            Integer(1, 65535),
            None,
            "none: closed",
            Text(
                f"loopback port of tritonserver's HTTP, for inference and health only; {_NO_KEY.en}",
                f"tritonserver HTTP 的本机回环端口，仅供推理与健康检查；{_NO_KEY.zh}",
            ),
            Passed(serve=True),
        ),
        Flag(
            "--triton-grpc-port",
            Integer(1, 65535),
            None,
            "none: a Unix socket",
            Text(
                f"loopback port of tritonserver's gRPC, model control included; {_NO_KEY.en}",
                f"tritonserver gRPC 的本机回环端口，包括模型加载；{_NO_KEY.zh}",
            ),
            Passed(serve=True),
        ),
        Flag(
            "--triton-metrics-port",
            Integer(1, 65535),
            None,
            "none: closed",
            Text("loopback port of tritonserver's metrics", "tritonserver 指标的本机回环端口"),
            Passed(serve=True),
        ),
        Flag(
            "--print-config",
            Switch(),
            None,
            "off",
            Text(
                "print each value and where it comes from, and end without starting anything",
                "打印每个参数的值及其来源，然后退出，不启动任何进程",
            ),
            Passed(serve=True),
        ),
    ),
)
