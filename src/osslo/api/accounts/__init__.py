"""The management API: accounts over HTTP, for the console and for scripts."""
