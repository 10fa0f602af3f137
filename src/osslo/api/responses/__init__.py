"""`/v1/responses`: OpenAI's Responses protocol over a turn, with what it keeps."""
