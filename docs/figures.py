"""Make the pictures of the documentation: ``python docs/figures.py [NAME ...]``.

Each picture is what commands of the documentation draw: a study is run in a temporary folder, and
its own picture, or that of the analysis next to its experiment, replaces the file. The tables of
``docs/placement.md`` have a script of their own, `experiments/buffer_locations/tables.py`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Pictures that a study draws itself, with the overrides of their command and their name there.
OVERVIEWS: dict[str, tuple[list[str], str]] = {"docs/lorenz_sweep.png": ([], "lorenz_sweep.png")}
#: Pictures that the analysis of an experiment draws, with the experiment.
ANALYSES = {
    "experiments/buffer_locations/placements.png": "buffer_locations",
    "experiments/hodgkin_huxley/firing_rate.png": "hodgkin_huxley",
    "experiments/lorenz_sweep/maxima.png": "lorenz_sweep",
    "experiments/lotka_volterra/period.png": "lotka_volterra",
    "experiments/mackey_glass/maxima.png": "mackey_glass",
    "experiments/pharmacokinetics/recovered.png": "pharmacokinetics",
    "experiments/repressilator/oscillations.png": "repressilator",
    "experiments/robertson/bands.png": "robertson",
    "experiments/stiff_suite/work_precision_store.png": "stiff_suite",
    "experiments/van_der_pol/period.png": "van_der_pol",
}
#: Pictures of long measurements, with the script that draws them.
MEASURED = {"experiments/stiff_suite/work_precision.png": "experiments/stiff_suite/measure.py"}


def make(name: str, target: Path, smaller: Sequence[str] = ()) -> None:
    """Make one picture.

    Parameters
    ----------
    name
        Its path in the repository.
    target
        The file to write.
    smaller
        Overrides that make its study shorter, for tests.

    Raises
    ------
    SystemExit
        If no command makes a picture of this name.
    """
    if name not in {*OVERVIEWS, *ANALYSES}:
        known = ", ".join([*OVERVIEWS, *ANALYSES])
        raise SystemExit(f"'{name}' is not a picture that this script makes: {known}")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words, drawn = OVERVIEWS.get(name, ([f"experiment={ANALYSES.get(name)}"], ""))
        _python("-m", "cubie_flow", *words, f"hydra.run.dir={run}", *smaller)
        if drawn:
            shutil.copyfile(run / drawn, target)
        else:
            script = ROOT / "experiments" / ANALYSES[name] / "analyse.py"
            _python(str(script), str(run / "results.zarr"), str(target))


def _python(*words: str) -> None:
    subprocess.run([sys.executable, *words], check=True)


def main(names: Sequence[str]) -> None:
    """Make the pictures `names`; all of them if none is named."""
    for name in names or [*OVERVIEWS, *ANALYSES]:
        make(name, ROOT / name)


if __name__ == "__main__":
    main(sys.argv[1:])
