"""cubie_flow on a GPU: the kernel alone, with arrays on the device, timed with events."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from benchmarks.cases import Case, Entry
from benchmarks.peers import Prepared
from benchmarks.peers.kernel import limits, make_kernel


def captured(kernel: Any, *arguments: Any) -> Any:
    """Return the batch that `solve` passes to its program, without running it."""
    program = kernel.product.program
    held: list[Any] = []
    program.run = held.append
    try:
        kernel.solve(*arguments)
    finally:
        del program.run
    return held[0]


def prepare(case: Case, entry: Entry) -> Prepared:
    from benchmarks.device import Stopwatch

    about = case.problem
    kernel = make_kernel(case, entry, "cuda")
    values = {about.varied: about.values(entry.runs)}
    built = kernel.product
    batch = captured(kernel, values, entry.runs, limits(entry))
    stack, watch = ExitStack(), Stopwatch()
    held = stack.enter_context(built.program.loaded(batch))  # type: ignore[attr-defined]
    states = len(about.start)

    def ends(answer: Any, probes: Any) -> Any:
        held.fetch()
        return batch.finals[:states, probes].T[:, None, :]

    def run() -> None:
        # `run` keeps the stack alive, and with it the arrays on the device.
        assert stack is not None
        watch.time(held.launch)

    return Prepared(run, ends, built.seconds, lambda: watch.seconds)
