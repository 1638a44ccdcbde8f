"""cubie_flow on a GPU, with all transfers."""

from __future__ import annotations

from typing import Any

from benchmarks.cases import Case, Entry
from benchmarks.peers import Prepared
from benchmarks.peers.kernel import limits, make_kernel


def prepare(case: Case, entry: Entry) -> Prepared:
    about = case.problem
    kernel = make_kernel(case, entry, "cuda")
    values = {about.varied: about.values(entry.runs)}
    built = kernel.product

    def ends(answer: Any, probes: Any) -> Any:
        return answer.finals[:, probes].T[:, None, :]

    return Prepared(lambda: kernel.solve(values, entry.runs, limits(entry)), ends, built.seconds)
