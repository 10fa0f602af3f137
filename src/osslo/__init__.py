"""Osslo: gpt-oss behind your own API."""

__version__ = "0.1.0"
