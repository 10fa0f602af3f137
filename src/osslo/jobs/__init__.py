"""Background jobs: the worker process, what it does for batches, and who looks after it."""
