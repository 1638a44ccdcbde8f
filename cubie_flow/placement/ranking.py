"""Placements in order of rank, as a table and as a dataset."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen

from cubie_flow.console.tables import text_table
from cubie_flow.errors import FlowError
from cubie_flow.memory import LOCATIONS
from cubie_flow.placement import equivalence
from cubie_flow.placement.compiler_stats import ENOUGH, CompilerStats, single_arch
from cubie_flow.placement.search import label
from cubie_flow.storage.provenance import provenance
from cubie_flow.study.study import Study

if TYPE_CHECKING:
    from xarray import Dataset

#: Batches timed per placement: half in order and half in reverse, so that drift cancels.
ROUNDS = 6


@frozen(eq=False)
class PlacementStudy:
    """Placements in order of rank.

    Attributes
    ----------
    stats : list of CompilerStats
    seconds : list of float
        Median on the device; NaN where nothing was timed.
    verdicts : dict
        Target to the verdicts of the gate, in the order of `stats`.
    baseline : int
        Rank of the study's own placement.
    device : str or None
        The GPU that timed them.
    """

    stats: list[CompilerStats]
    seconds: list[float]
    verdicts: dict[str, list[str]]
    baseline: int
    device: str | None

    def dataset(self, study: Study, overrides: Sequence[str] = (), config: str = "") -> Dataset:
        """Return everything as one dataset with the dimension ``placement``, the best first.

        Parameters
        ----------
        study : Study
        overrides : sequence of str
            The command line.
        config : str
            The composed config as YAML.
        """
        import xarray

        first = self.stats[0].placement
        data: dict[str, Any] = {}
        for name in first:
            places = [LOCATIONS.index(stats.placement[name]) for stats in self.stats]
            data[f"location_{name}"] = _flags(places, LOCATIONS, f"location of {name}")
        for target, verdicts in self.verdicts.items():
            codes = [equivalence.VERDICTS.index(verdict) for verdict in verdicts]
            text = f"bits of the trajectories on {target}, against the baseline"
            data[f"equivalence_{target}"] = _flags(codes, equivalence.VERDICTS, text)
        data["time"] = _array(self.seconds, "s", "median time of a batch on the device")
        for name, (unit, text) in _QUANTITIES.items():
            values = [
                float("nan") if f.problem and name != "shared_run" else getattr(f, name)
                for f in self.stats
            ]
            data[name] = _array(values, unit, text)
        for name in ("limiter", "ptx_hash", "problem"):
            data[name] = ("placement", np.asarray([getattr(f, name) for f in self.stats], object))
        words = np.asarray([label(stats.placement) for stats in self.stats], object)
        attrs = {
            "title": f"buffer placements of {study.system.name}, {study.algorithm}",
            "study": study.name,
            "system": json.dumps(study.system.to_mapping()),
            "algorithm": study.algorithm,
            "precision": study.precision,
            "arch": single_arch(study),
            "ranked_by": self.ranked_by,
            "baseline": label(self.stats[self.baseline].placement),
            "device": self.device or "none",
            **provenance(overrides),
            "config": config,
        }
        coords = {"placement": ("placement", words, {"long_name": "placement, best first"})}
        return xarray.Dataset(data, coords, attrs)

    @property
    def ranked_by(self) -> str:
        """What the order follows, in words."""
        if self.device is not None:
            return f"the median time of {ROUNDS} interleaved batches on {self.device}"
        return (
            "compiler statistics, because nothing was timed (no GPU): spilled bytes, an occupancy "
            f"below {ENOUGH:.0%}, stack, shared accesses, occupancy, registers"
        )

    def table(self) -> str:
        """Return the ranking as text."""
        head = ["rank", "placement", "time", "spill", "stack", "regs", "shared/run", "block",
                "occupancy", "limiter", "ld/st.shared", *self.verdicts]  # fmt: skip
        rows = []
        base = self.stats[self.baseline].ptx_hash
        for i, f in enumerate(self.stats):
            time = "-" if np.isnan(self.seconds[i]) else f"{1e3 * self.seconds[i]:.3f} ms"
            mark = " *" if i == self.baseline else " =" if f.ptx_hash == base else ""
            verdict = [verdicts[i].replace("_", " ") for verdicts in self.verdicts.values()]
            cells = [
                str(f.spills), str(f.stack), str(f.registers), str(f.shared_run),
                str(f.block_size), f"{f.occupancy:.0%}", f.limiter, f"{f.ld_shared}/{f.st_shared}",
            ]  # fmt: skip
            if f.problem:
                cells = ["-", "-", "-", str(f.shared_run), "-", "-", "does not fit", "-"]
                mark = " *" if i == self.baseline else ""
            cells = [str(i + 1), label(f.placement) + mark, time, *cells, *verdict]
            rows.append(dict(zip(head, cells, strict=True)))
        notes = [
            f"ranked by {self.ranked_by}",
            "* the placement the study has; = the same PTX, so no difference is possible on a GPU",
            "spill, stack and shared/run in bytes",
        ]
        notes += [
            f"rank {i + 1} does not fit: {f.problem}" for i, f in enumerate(self.stats) if f.problem
        ]
        return "\n".join([text_table(rows), *notes])


_QUANTITIES = {
    "registers": ("1", "registers per thread"),
    "spill_stores": ("byte", "registers stored to memory, per thread"),
    "spill_loads": ("byte", "registers loaded from memory, per thread"),
    "stack": ("byte", "stack frame of a thread"),
    "shared_run": ("byte", "shared memory from one run to the next, padded"),
    "shared_block": ("byte", "dynamic shared memory of a block"),
    "block_size": ("1", "threads per block, after fitting shared memory"),
    "occupancy": ("1", "predicted fraction of active warps"),
    "ld_shared": ("1", "instructions in the PTX that read shared memory"),
    "st_shared": ("1", "instructions in the PTX that write shared memory"),
}


def _array(values: Sequence[float], unit: str, text: str) -> tuple[Any, ...]:
    return ("placement", np.asarray(values), {"units": unit, "long_name": text})


def _flags(codes: Sequence[int], words: Sequence[str], text: str) -> tuple[Any, ...]:
    attrs = {
        "flag_values": list(range(len(words))),
        "flag_meanings": " ".join(words),
        "long_name": text,
    }
    return ("placement", np.asarray(codes, np.int8), attrs)


def save(dataset: Dataset, path: Path) -> None:
    """Write the dataset as one Zarr store.

    Raises
    ------
    FlowError
        If it cannot be written.
    """
    try:
        with warnings.catch_warnings():
            # Zarr 3 has no final specification of strings yet and says so.
            warnings.simplefilter("ignore")
            dataset.to_zarr(path, mode="w-", zarr_format=3, consolidated=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FlowError(f"the result '{path}' cannot be written: {reason}") from error
