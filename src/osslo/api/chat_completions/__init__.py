"""`/v1/chat/completions`: OpenAI's chat protocol over a turn."""
