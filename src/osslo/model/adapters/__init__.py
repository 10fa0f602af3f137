"""LoRA adapters: reading PEFT's layout, checking it against a model, and finding what is there."""
