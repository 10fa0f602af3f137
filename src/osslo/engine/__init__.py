"""Continuous batching over paged KV: from token ids to token ids."""
