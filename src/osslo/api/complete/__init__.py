"""Anthropic's old text completions: a prompt with `\\n\\nHuman:` and `\\n\\nAssistant:` turns."""
