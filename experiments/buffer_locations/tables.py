"""Write the tables of docs/placement.md: python experiments/buffer_locations/tables.py [NAME ...].

Each table belongs to one placement study. The study is run, its store is read, and the lines
between the markers ``<!-- table: NAME -->`` and ``<!-- end -->`` of the page are replaced.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import xarray
from xarray import Dataset

PAGE = Path(__file__).parents[2] / "docs" / "placement.md"
LORENZ96 = ["system=lorenz96", "batch=sobol", "batch.size=1024",
            "buffers.sweep=[stage_increments,state,proposed_state]"]  # fmt: skip
STIFF = ["system=brusselator_1d", "system.settings.size=10", "algorithm=rodas5p", "batch=sobol",
         "batch.size=256", "buffers.sweep=[stage_increments,factors,stage_state]"]  # fmt: skip
#: The overrides of each study.
STUDIES = {
    "lorenz": ["experiment=buffer_locations"],
    "lorenz96_20": [*LORENZ96, "system.settings.size=20", "buffers.search=one_at_a_time"],
    "lorenz96_100": [*LORENZ96, "system.settings.size=100", "buffers.search=one_at_a_time"],
    "brusselator_1d": [*STIFF, "buffers.search=one_at_a_time"],
}
HEAD = ("rank", "placement", "spill", "stack", "registers", "shared per run", "block",
        "occupancy", "limiter", "loads and stores, shared", "simulator, CPU")  # fmt: skip


def table(data: Dataset) -> str:
    """Return the ranking of a placement study as a Markdown table."""
    rows = [HEAD, ("---",) * len(HEAD)]
    for rank in range(data.sizes["placement"]):
        row = data.isel(placement=rank)
        name = str(row["placement"].values)
        mark = " (the default)" if name == data.attrs["baseline"] else ""
        verdicts = [
            str(row[f"equivalence_{target}"].attrs["flag_meanings"]).split()[
                int(row[f"equivalence_{target}"])
            ].replace("_", " ")
            for target in ("simulator", "cpu")
        ]  # fmt: skip
        number = {key: int(row[key]) for key in NUMBERS}
        rows.append((
            str(rank + 1), f"`{name}`{mark}", str(number["spill_stores"] + number["spill_loads"]),
            *(str(number[key]) for key in ("stack", "registers", "shared_run", "block_size")),
            f"{float(row['occupancy']):.0%}", str(row["limiter"].values),
            f"{number['ld_shared']}, {number['st_shared']}", ", ".join(dict.fromkeys(verdicts)),
        ))  # fmt: skip
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


NUMBERS = ("spill_stores", "spill_loads", "stack", "registers", "shared_run", "block_size",
           "ld_shared", "st_shared")  # fmt: skip


def run(name: str) -> str:
    """Run the placement study `name` for sm_90 without a GPU and return its table."""
    with tempfile.TemporaryDirectory() as folder:
        words = [*STUDIES[name], "task=placement", "precision=float32", "target.arch=sm_90"]
        command = [sys.executable, "-m", "cubie_flow", *words, f"hydra.run.dir={folder}/study"]
        subprocess.run(command, check=True)
        with xarray.open_zarr(f"{folder}/study/results.zarr") as data:
            return table(data.load())


def main(names: list[str]) -> None:
    """Renew the tables `names`, all of them where none is named."""
    for name in names or list(STUDIES):
        text = PAGE.read_text(encoding="utf-8")
        block = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        lines = run(name)
        renewed = block.sub(lambda found, lines=lines: f"{found[1]}\n{lines}\n\n{found[2]}", text)  # type: ignore[misc]
        PAGE.write_text(renewed, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
