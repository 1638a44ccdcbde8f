"""Benchmarks: comparison with other solvers, efficiency of the kernels, instruction counts."""
