"""What callers asked to keep: repositories limited to an owner, with a time to live."""
