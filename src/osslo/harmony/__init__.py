"""gpt-oss's message format: messages, rendering, parsing, grammar. Pure, no I/O."""
