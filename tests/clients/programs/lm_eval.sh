export OPENAI_API_KEY=null
lm_eval --model local-completions --tasks capitals --include_path . --log_samples --output_path results \
    --model_args base_url=http://127.0.0.1:8188/v1/completions,model=ernie-tiny,tokenizer_backend=remote
