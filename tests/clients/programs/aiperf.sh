aiperf profile --model ernie-tiny --url http://127.0.0.1:8188 --endpoint-type chat --streaming \
    --tokenizer model_repository/ernie-tiny/weights --use-server-token-count \
    --synthetic-input-tokens-mean 64 --output-tokens-mean 16 --extra-inputs ignore_eos:true --request-count 16 --concurrency 4 \
    --no-gpu-telemetry --ui none
