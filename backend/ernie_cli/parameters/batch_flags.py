"""Flags of how much is computed at once, of the queue and of the KV cache."""

from __future__ import annotations

from ernie_cli.parameters.flag import Choice, Flag, Group, Integer, NoEffect, Number, Passed, Switch, Text, Word

_ONE_POOL = Text("one pool of blocks serves prompts and answers", "提示词与回答共用同一个块池")
_NO_OFFLOAD = Text("the KV cache is not stored anywhere else", "KV 缓存不转存到别处")

BATCH = Group(
    Text("Batch, queue and KV cache", "批处理、队列与 KV 缓存"),
    (
        Flag(
            "--max-model-len",
            Integer(2),
            "2048",
            "2048",
            Text("most tokens of prompt and answer together", "提示词与回答的 token 总数上限"),
            Passed(engine="max_model_len"),
        ),
        Flag(
            "--max-num-seqs",
            Integer(1, 4096),
            "8",
            "8",
            Text("most requests worked on at once", "同时处理的请求数上限"),
            Passed(engine="max_num_seqs"),
        ),
        Flag(
            "--max-num-batched-tokens",
            Integer(1, 1 << 20),
            "none: as --max-model-len; 2048 with chunked prefill",
            "2048",
            Text(
                "most tokens in one step; longer prompts are cut", "一步计算的 token 数上限；更长的提示词会分块"
            ),
            Passed(engine="max_num_batched_tokens"),
        ),
        Flag(
            "--gpu-memory-utilization",
            Number(0.01, 1.0),
            "0.9",
            "0.9",
            Text(
                "share of the device's memory; on a CPU, of the free memory",
                "可用的设备内存比例；CPU 上为空闲内存的比例",
            ),
            Passed(engine="gpu_memory_utilization"),
        ),
        Flag(
            "--num-gpu-blocks-override",
            Integer(1),
            "none",
            "none: as many as fit",
            Text("blocks of the KV cache", "KV 缓存的块数"),
            Passed(engine="num_gpu_blocks_override"),
        ),
        Flag(
            "--block-size",
            Integer(1, 4096),
            "64",
            "64",
            Text("tokens in a block of the KV cache", "KV 缓存每块的 token 数"),
            Passed(engine="block_size"),
        ),
        Flag(
            "--enable-prefix-caching",
            Switch(has_opposite=True),
            "on",
            "on",
            Text("prompts that begin alike share their KV cache", "开头相同的提示词共用 KV 缓存"),
            Passed(engine="enable_prefix_caching"),
        ),
        Flag(
            "--scheduler-max-size",
            Integer(-1),
            "-1",
            "-1: 512",
            Text("requests in the queue; one more gets 429", "队列中的请求数；超出返回 429"),
            Passed(engine="max_num_waiting", serve=True),
        ),
        Flag(
            "--max-num-waiting-tokens",
            Integer(1),
            None,
            "1048576",
            Text("prompt tokens in the queue; more get 429", "队列中提示词的 token 总数；超出返回 429"),
            Passed(engine="max_num_waiting_tokens"),
        ),
        Flag(
            "--enable-chunked-prefill",
            Switch(has_opposite=True),
            "off",
            "always",
            Text("compute long prompts in pieces", "长提示词分块计算"),
            NoEffect(Text("long prompts are always computed in pieces", "长提示词总是分块计算")),
        ),
        Flag(
            "--max-num-partial-prefills",
            Integer(1),
            "1",
            "1",
            Text("prompts computed in pieces at once", "同时分块计算的提示词数"),
            Passed(engine="max_num_partial_prefills"),
        ),
        Flag(
            "--max-long-partial-prefills",
            Integer(1),
            "1",
            "1",
            Text("of these, long ones", "其中长提示词的数目"),
            Passed(engine="max_long_partial_prefills"),
        ),
        Flag(
            "--long-prefill-token-threshold",
            Integer(0),
            "0: 4 % of --max-model-len",
            "0: 4 % of --max-model-len",
            Text("tokens of the longest prompt that is not long", "不算长提示词的最大 token 数"),
            Passed(engine="long_prefill_token_threshold"),
        ),
        Flag(
            "--kv-cache-ratio",
            Number(0, 1),
            "0.75",
            "none",
            Text("share of the KV cache for prompts", "提示词占 KV 缓存的比例"),
            NoEffect(_ONE_POOL),
        ),
        Flag(
            "--prealloc-dec-block-slot-num-threshold",
            Integer(0),
            "12",
            "none",
            Text("blocks reserved for decoding", "为解码预留块的阈值"),
            NoEffect(_ONE_POOL),
        ),
        Flag(
            "--static-decode-blocks",
            Integer(0),
            "2",
            "none",
            Text("blocks each request gets for its answer", "为每个请求的回答固定分配的块数"),
            NoEffect(_ONE_POOL),
        ),
        Flag(
            "--swap-space",
            Number(0),
            "none",
            "none",
            Text("GiB of host memory for the KV cache", "KV 缓存可换出到主机内存的大小（GiB）"),
            NoEffect(_NO_OFFLOAD),
        ),
        Flag(
            "--kvcache-storage-backend",
            Choice(("mooncake", "attention_store", "file")),
            "none",
            "none",
            Text("external storage of the KV cache", "KV 缓存的外部存储"),
            NoEffect(_NO_OFFLOAD),
        ),
        Flag(
            "--write-policy",
            Word("NAME"),
            "write_through",
            "none",
            Text("when the KV cache is written to its storage", "KV 缓存写入外部存储的策略"),
            NoEffect(_NO_OFFLOAD),
        ),
        Flag(
            "--enable-output-caching",
            Switch(has_opposite=True),
            "on",
            "as --enable-prefix-caching",
            Text("answers join the prefix cache", "回答也进入前缀缓存"),
            NoEffect(Text("--enable-prefix-caching decides for both", "由 --enable-prefix-caching 一并决定")),
        ),
    ),
)
