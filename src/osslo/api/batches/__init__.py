"""`/v1/batches`: many requests as one file, answered as another."""
