"""One entrant in a process of its own.

So a first result includes all that a user waits for, peak memory is the entrant's own, a crash or
an endless compilation costs one row, and thread pools do not meet.
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
#: Seconds that one round lasts at least; quick solvers run several times in it, since the first
#: call after a pause finds caches cold and threads asleep.
LEAST = 0.05


def core_seconds() -> float:
    """Return the processor time of this process and of its finished children."""
    import resource

    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return process_time() + children.ru_utime + children.ru_stime


def serve(pipe: Connection, case: Case, entry: Entry, probes: Array) -> None:
    """Prepare an entrant, report its first result, then do a round whenever asked."""
    # What libraries say is not ours to print, and a solver may print a warning a run.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    # Our own kernels are compiled anew: a warm cache would hide what a first result costs.
    cache = tempfile.TemporaryDirectory()
    os.environ["CUBIE_FLOW_CACHE"] = cache.name
    # OpenMP's threads would spin for a while after a round, on the cores of whoever is next.
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
    """Return the most memory that this process had, or the largest of its children."""
    import resource

    from cubie_flow.process.machine import peak_memory

    if not elsewhere:
        return peak_memory()
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def _round(prepared: Any, repeats: int) -> tuple[float, float, float | None]:
    """Return (core seconds, wall seconds, seconds on a GPU) of one run."""
    cores, wall = core_seconds(), perf_counter()
    for _ in range(repeats):
        prepared.run()
    wall = perf_counter() - wall
    device = prepared.device_seconds and prepared.device_seconds()
    return (core_seconds() - cores) / repeats, wall / repeats, device
