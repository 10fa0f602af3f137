"""`/v1/conversations`: lists of items that callers keep, and that responses read and add to."""
