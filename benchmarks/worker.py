"""One entry of a case, measured in its own process.

A first result then includes everything that a user waits for, the peak memory is that of the entry
alone, a crash or an endless compilation costs one row, and thread pools do not interfere.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from multiprocessing.connection import Connection
from time import perf_counter, process_time
from typing import Any

from benchmarks.cases import Case, Entry

Array = Any
#: Shortest time of a round in seconds. Fast solvers run several times in a round, since the first
#: call after a pause has cold caches and sleeping threads.
LEAST = 0.05


def core_seconds() -> float:
    """Return the processor time of this process and of its finished children."""
    import resource

    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return process_time() + children.ru_utime + children.ru_stime


def serve(pipe: Connection, case: Case, entry: Entry, probes: Array) -> None:
    """Prepare an entry, report its first result, then run a round on every request."""
    # Suppress the output of libraries: a solver may print a warning per run.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    # Compile our own kernels again: a warm cache would hide the cost of a first result.
    cache = tempfile.TemporaryDirectory()
    os.environ["CUBIE_FLOW_CACHE"] = cache.name
    # Threads of OpenMP would spin after a round, on the cores of the next entry.
    os.environ.update(KMP_BLOCKTIME="0", OMP_WAIT_POLICY="PASSIVE")
    started = perf_counter()
    try:
        from benchmarks.peers import Unsupported, load

        try:
            prepared = load(entry.peer)(case, entry)
            answer = prepared.run()
        except ImportError as missing:
            pipe.send({"missing": f"not installed ({missing.name or missing})"})
            return
        except Unsupported as reason:
            pipe.send({"missing": str(reason)})
            return
        first = perf_counter() - started
        ends = prepared.ends(answer, probes)
        del answer
        once = _round(prepared, 1)[1]
        pipe.send(
            {
                "first_result_s": first,
                "compile_s": prepared.compile_seconds,
                "ends": ends,
                "once": once,
            }
        )
        repeats = max(1, round(LEAST / max(once, 1e-7)))
        while pipe.recv() == "round":
            pipe.send(_round(prepared, repeats))
        pipe.send(_peak(prepared.elsewhere))
    except (EOFError, KeyboardInterrupt):
        return
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        pipe.send({"missing": f"failed with {text} ({os.path.basename(where.filename)})"})
    finally:
        cache.cleanup()


def _peak(elsewhere: bool) -> int:
    """Return the peak memory of this process, or the largest peak of its children."""
    import resource

    from cubie_flow.process.machine import peak_memory

    if not elsewhere:
        return peak_memory()
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def _round(prepared: Any, repeats: int) -> tuple[float, float, float | None]:
    """Return core seconds, wall seconds and GPU seconds of one run."""
    cores, wall = core_seconds(), perf_counter()
    for _ in range(repeats):
        prepared.run()
    wall = perf_counter() - wall
    device = prepared.device_seconds and prepared.device_seconds()
    return (core_seconds() - cores) / repeats, wall / repeats, device
