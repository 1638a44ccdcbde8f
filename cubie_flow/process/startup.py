"""Start-up of a command: checks of its environment, and savings in a process of its own."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cubie_flow.errors import FlowError

#: Numba reads it where a process starts.
NUMBA_CONFIG = ".numba_config.yaml"
#: Smallest address space of a study, in bytes: with less, OpenBLAS and LLVM abort the process.
ADDRESS_SPACE = 1_500_000_000


class _Process:
    """State of the process.

    Attributes
    ----------
    owned : bool
        Whether the process was started for this command alone.
    """

    owned = False


process = _Process()


def address_space() -> int | None:
    """Return the limit of this process's address space in bytes; None if there is none."""
    try:
        import resource
    except ImportError:  # not on this system
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def check_surroundings() -> None:
    """Refuse to start in an environment where no study can run.

    Raises
    ------
    FlowError
        Naming the problem.
    """
    if not __debug__:
        raise FlowError(
            "Python runs without assertions (-O or PYTHONOPTIMIZE), which zarr needs to read a "
            "store; run it with them"
        )
    space = address_space()
    if space is not None and space < ADDRESS_SPACE:
        raise FlowError(
            f"this process may use {space / 1e9:.2f} GB of memory addresses (ulimit -v), but a "
            f"study needs at least {ADDRESS_SPACE / 1e9:g} GB; raise the limit"
        )
    try:
        os.getcwd()
    except OSError:
        raise FlowError("the current folder has been deleted; change to one that exists") from None
    if os.path.lexists(NUMBA_CONFIG):
        raise FlowError(
            f"'{NUMBA_CONFIG}' in the current folder would configure numba, which then may load "
            "any library; set variables such as NUMBA_NUM_THREADS instead and rename the file, or "
            "start in another folder"
        )


def keep_dask_out() -> None:
    """Prevent xarray from importing dask to find out whether arrays are dask arrays.

    The import takes as long as solving does, and no array here is one.
    """
    if not process.owned or "dask" in sys.modules:
        return
    sys.modules["dask"] = None  # type: ignore[assignment]
    try:
        from cubie_flow.process.xarray_adapter import look_for_dask

        look_for_dask()
    finally:
        del sys.modules["dask"]


@contextmanager
def no_collections() -> Iterator[None]:
    """Import without garbage collections, and exempt the imported objects from later ones.

    Otherwise a warm command spends a tenth of its time on collections that free nothing.
    """
    if not process.owned:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
