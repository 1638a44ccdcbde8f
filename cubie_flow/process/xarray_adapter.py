"""Private parts of xarray that start-up uses; written for xarray 2025.1 to 2026.9."""

from __future__ import annotations


def look_for_dask() -> None:
    """Let xarray look for dask now; it remembers the answer.

    A version of xarray that looks in another way is not affected.
    """
    from xarray.namedarray import pycompat, utils

    getattr(pycompat, "array_type", len)("dask")
    getattr(utils, "module_available", len)("dask")
