"""Anthropic's Messages API: messages, token counts, models and errors in its shapes."""
