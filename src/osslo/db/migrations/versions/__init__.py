"""The revisions, in one line of history."""
