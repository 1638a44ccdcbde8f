"""Work and precision of stiff methods: python analyse.py [results.zarr] [picture.png]."""

from __future__ import annotations

import numpy as np
from xarray import Dataset

from cubie_flow.analysis.experiments import analyse
from cubie_flow.analysis.pictures import drawer
from cubie_flow.analysis.pictures.style import Picture

#: Number of runs that are integrated again, the methods and tolerances, and the exact reference.
RUNS = 16
METHODS = ("rodas5p", "kvaerno5", "radau_iia_5", "bdf")
TOLERANCES = (1e-4, 1e-6, 1e-8)
TRUTH = {"algorithm": "radau_iia_9", "rtol": 1e-10, "atol": 1e-22}


def main(data: Dataset) -> Picture:
    """Print the steps of the study, and draw error over steps of several methods on its runs."""
    steps = data.steps + data.rejected
    print(f"{data.sizes['run']:,} runs, {int((data.status == 0).sum()):,} successful")
    print(f"steps per run: {int(steps.min()):,} to {int(steps.max()):,}")
    total = data.y1_final + data.y2_final + data.y3_final
    print(f"the fractions add up to 1 within {float(abs(total - 1).max()):.1e}")
    which = np.unique(np.linspace(0, data.sizes["run"] - 1, RUNS).astype(int))
    results = [data.flow.rerun(which, **TRUTH)]
    for algorithm in METHODS:
        for rtol in TOLERANCES:
            results.append(
                data.flow.rerun(which, algorithm=algorithm, rtol=rtol, atol=1e-12 * rtol)
            )
    return drawer("work_precision")(results, reference=0)


if __name__ == "__main__":
    analyse("stiff_suite", main)
