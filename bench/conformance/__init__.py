"""Holds the server against the world: fuzzing, schemas, replays, malformed output, overload, speed.

`python -m bench.conformance` runs all rows; each module of this package owns one or two of them.
"""
