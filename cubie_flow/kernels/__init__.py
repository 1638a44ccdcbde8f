"""Kernels: the batch kernel, its targets and the cache of compiled code."""
