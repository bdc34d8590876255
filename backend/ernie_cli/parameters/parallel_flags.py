"""Flags of several devices, several engines and several machines."""

from __future__ import annotations

from ernie_cli.parameters.flag import (
    Choice,
    Effect,
    Flag,
    Group,
    Integer,
    JsonObject,
    Kind,
    NoEffect,
    Number,
    Passed,
    Refused,
    Switch,
    Text,
    Word,
    Words,
)

_PADDLE_SUMS = NoEffect(Text("sums go through paddle.distributed", "求和由 paddle.distributed 完成"))
_PIECES = NoEffect(Text("experts always compute in pieces", "专家层总是分块计算"))
_FIXED_EXPERTS = Text(
    "not available; every device has equally many experts", "不提供；每个设备承载相同数量的专家"
)
_NO_REPLAY = Text("the routing of experts is not recorded yet", "尚不支持记录专家路由")
_ONE_ENGINE = Text(
    "one engine per service; start several services on several ports",
    "每个服务一个引擎；请在多个端口启动多个服务",
)
_MIXED = Text(
    "prefill and decode cannot be separated yet; one service does both",
    "尚不支持预填充与解码分离；一个服务同时负责两者",
)
_NO_TRANSFER = NoEffect(Text("the KV cache is not sent to other services", "KV 缓存不发往其他服务"))
_NO_REDIS = NoEffect(Text("the scheduler is local and needs no Redis", "调度器在本地，不使用 Redis"))


def _scheduler(name: str, kind: Kind, default: str, meaning: Text, *, is_secret: bool = False) -> Flag:
    """Return a flag of the Redis scheduler."""
    effect: Effect = _NO_REDIS
    return Flag(f"--scheduler-{name}", kind, default, "none", meaning, effect, is_secret=is_secret)


PARALLEL = Group(
    Text("Several devices", "多设备"),
    (
        Flag(
            "--tensor-parallel-size",
            Integer(1, 1024),
            "1",
            "1",
            Text(
                "devices that share the model; it divides the heads and widths of the model",
                "共同承载模型的设备数；须整除模型的注意力头数与各层宽度",
            ),
            Passed(engine="tensor_parallel_size"),
            short="-tp",
        ),
        Flag(
            "--data-parallel-size",
            Integer(1),
            "1",
            "1",
            Text("engines behind one service", "一个服务背后的引擎数"),
            Refused(_ONE_ENGINE, ("1",)),
        ),
        Flag(
            "--local-data-parallel-id",
            Integer(0),
            "0",
            "0",
            Text("which of these engines this is", "本引擎的编号"),
            Refused(_ONE_ENGINE, ("0",)),
        ),
        Flag(
            "--ips",
            Words(shown="ADDRESS"),
            "none",
            "this one",
            Text(
                "machines that share the model, the one with the API first; the same command runs on each",
                "共同承载模型的机器，提供 API 的在前；每台机器运行同一命令",
            ),
            Passed(engine="ips"),
        ),
        Flag(
            "--disable-custom-all-reduce",
            Switch(),
            "off",
            "off",
            Text("use the library's all-reduce", "使用通信库自带的 all-reduce"),
            _PADDLE_SUMS,
        ),
        Flag(
            "--disable-sequence-parallel-moe",
            Switch(),
            "off",
            "off",
            Text("experts without sequence parallelism", "专家层不使用序列并行"),
            _PADDLE_SUMS,
        ),
        Flag(
            "--use-internode-ll-two-stage",
            Switch(),
            "off",
            "off",
            Text("two-stage exchange between machines", "机器间两段式通信"),
            _PADDLE_SUMS,
        ),
        Flag(
            "--shutdown-comm-group-if-worker-idle",
            Switch(has_opposite=True),
            "off",
            "off",
            Text("close communication while idle", "空闲时关闭通信组"),
            _PADDLE_SUMS,
        ),
        Flag(
            "--enable-expert-parallel",
            Switch(),
            "off",
            "off",
            Text(
                "each device has whole experts, instead of a part of every expert",
                "每个设备承载若干完整专家，而非每个专家的一部分",
            ),
            Passed(engine="enable_expert_parallel"),
        ),
        Flag(
            "--enable-eplb",
            Switch(),
            "off",
            "off",
            Text("balance experts", "专家负载均衡"),
            Refused(_FIXED_EXPERTS),
        ),
        Flag(
            "--eplb-config",
            JsonObject(),
            "none",
            "none",
            Text("settings of --enable-eplb", "--enable-eplb 的设置"),
            Refused(_FIXED_EXPERTS, ("{}",)),
        ),
        Flag(
            "--routing-replay-config",
            JsonObject(),
            "none",
            "none",
            Text("record or replay the routing of experts", "记录或重放专家路由"),
            Refused(_NO_REPLAY, ("{}",)),
        ),
        Flag(
            "--enable-chunked-moe",
            Switch(),
            "off",
            "off",
            Text("experts compute in pieces", "专家层分块计算"),
            _PIECES,
        ),
        Flag(
            "--chunked-moe-size", Integer(1), "256", "none", Text("size of these pieces", "分块大小"), _PIECES
        ),
    ),
)
SEPARATION = Group(
    Text("Several services", "多服务"),
    (
        Flag(
            "--splitwise-role",
            Choice(("mixed", "prefill", "decode")),
            "mixed",
            "mixed",
            Text("what this service does of prefill and decode", "本服务在预填充与解码中的角色"),
            Refused(_MIXED, ("mixed",)),
        ),
        Flag(
            "--cache-transfer-protocol",
            Word("NAME"),
            "ipc",
            "none",
            Text("how the KV cache is sent", "KV 缓存的传输协议"),
            _NO_TRANSFER,
        ),
        Flag(
            "--pd-comm-port", Words(shown="PORT"), "none", "none", Text("port for it", "其端口"), _NO_TRANSFER
        ),
        Flag(
            "--rdma-comm-ports",
            Words(shown="PORT"),
            "none",
            "none",
            Text("RDMA ports", "RDMA 端口"),
            _NO_TRANSFER,
        ),
        Flag(
            "--innode-prefill-ports",
            Words(shown="PORT"),
            "none",
            "none",
            Text("ports of prefill services on this machine", "本机预填充服务的端口"),
            Refused(_MIXED),
        ),
        Flag(
            "--router",
            Word("URL"),
            "none",
            "none",
            Text("a FastDeploy router to register with", "要注册到的 FastDeploy 路由器"),
            Refused(
                Text(
                    "not available; put a load balancer that asks /health in front of several services",
                    "不提供；请在多个服务前放置检查 /health 的负载均衡器",
                )
            ),
        ),
        Flag(
            "--scheduler-name",
            Choice(("local", "global", "splitwise")),
            "local",
            "local",
            Text("where requests queue", "请求在何处排队"),
            Refused(_ONE_ENGINE, ("local",)),
        ),
        _scheduler("ttl", Number(), "900", Text("seconds a request is kept", "请求保留的秒数")),
        _scheduler("host", Word("ADDRESS"), "127.0.0.1", Text("address of Redis", "Redis 地址")),
        _scheduler("port", Integer(0, 65535), "6379", Text("port of Redis", "Redis 端口")),
        _scheduler("db", Integer(), "0", Text("database of Redis", "Redis 数据库编号")),
        _scheduler("password", Word(), "none", Text("password of Redis", "Redis 密码"), is_secret=True),
        _scheduler("topic", Word(), "default", Text("name of the queue in Redis", "Redis 中的队列名")),
        _scheduler(
            "min-load-score", Number(), "3", Text("from which load requests move", "开始转移请求的负载值")
        ),
        _scheduler("load-shards-num", Integer(), "1", Text("shards of the load table", "负载表的分片数")),
        _scheduler("sync-period", Number(), "5", Text("seconds between two reports", "上报间隔秒数")),
        _scheduler("expire-period", Number(), "3000", Text("seconds until a node is gone", "节点失效秒数")),
        _scheduler(
            "release-load-expire-period",
            Number(),
            "600",
            Text("seconds until its load is dropped", "负载清除秒数"),
        ),
        _scheduler("reader-parallel", Integer(), "4", Text("reading connections", "读连接数")),
        _scheduler("writer-parallel", Integer(), "4", Text("writing connections", "写连接数")),
        _scheduler("reader-batch-size", Integer(), "200", Text("requests read at once", "一次读取的请求数")),
        _scheduler("writer-batch-size", Integer(), "200", Text("answers written at once", "一次写入的回答数")),
    ),
)
