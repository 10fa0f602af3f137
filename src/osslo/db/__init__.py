"""The database: one base for every table, sessions with the right locking, and migrations."""
