"""Checked wrappers over the native kernels, and the same maths in NumPy."""
