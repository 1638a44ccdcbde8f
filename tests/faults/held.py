"""The command, held at a shard until a test lets it go: ``python held.py RUN GATE [words]``.

A test that stops a study needs it to be under way at that moment, however busy the machine is.
Worker processes load this file too, as they do with whatever started their parent.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

VARIABLE = "HELD"


def held(run: int, gate: Path, *words: str, status: str = "/status") -> dict[str, Any]:
    """Return arguments of `subprocess.Popen` for the command.

    No shard from `run` on is complete before the file `gate` is there; `status` is the array of
    statuses that is meant, by its path in the store.
    """
    environment = {**os.environ, VARIABLE: f"{status}:{run}:{gate}"}
    return {"args": [sys.executable, __file__, *words], "env": environment}


def _hold(status: str, run: int, gate: Path) -> None:
    from cubie_flow.storage import ResultStore

    write = ResultStore._write

    def wait_and_write(store: ResultStore, names: Any, index: int, arrays: Any) -> None:
        if store.plan.shards[index][0] >= run and status in [store.array(n).name for n in names]:
            while not gate.exists():
                time.sleep(0.002)
        write(store, names, index, arrays)

    ResultStore._write = wait_and_write


if VARIABLE in os.environ:
    _status, _run, _gate = os.environ[VARIABLE].split(":", 2)
    _hold(_status, int(_run), Path(_gate))

if __name__ == "__main__":
    from cubie_flow.cli.app import main

    sys.exit(main(sys.argv[1:]))
