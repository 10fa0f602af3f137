"""`/v1/completions`: OpenAI's legacy protocol over raw completions."""
