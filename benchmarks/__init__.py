"""Benchmarks beside peers, the efficiency of our kernels, and a guard of instruction counts."""
