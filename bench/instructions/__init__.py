"""Instruction counts of the hot kernels."""
