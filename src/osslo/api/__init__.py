"""The HTTP API: one adapter and one schema file for each protocol."""
