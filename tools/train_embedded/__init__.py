"""Makes the embedded model: synthetic data, a tokenizer, training, export. Needs the ``train`` extra."""
