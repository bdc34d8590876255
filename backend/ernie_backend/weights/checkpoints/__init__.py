"""The files of a checkpoint: tensors by name, whole or cut for ranks, float or quantized; and their cache."""
