"""Config, checkpoints, packed files, tokenizer, and the forward pass."""
