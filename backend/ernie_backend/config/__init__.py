"""What a model's files say: config.json, its quantization, its architecture."""
