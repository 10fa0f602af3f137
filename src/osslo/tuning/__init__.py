"""Fine-tuning: data, packing, the training loop and its report. Serving never imports this."""
