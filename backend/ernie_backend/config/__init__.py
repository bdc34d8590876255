"""What a model's files say: config.json, its quantization and architecture, and generation_config.json."""
