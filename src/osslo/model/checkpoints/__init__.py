"""Reading checkpoints: Hugging Face safetensors, OpenAI's original layout, and GGUF."""
