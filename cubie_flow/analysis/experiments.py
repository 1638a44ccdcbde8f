"""The command line that every ``experiments/*/analyse.py`` shares."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cubie_flow.errors import FlowError

if TYPE_CHECKING:
    from xarray import Dataset

    from cubie_flow.analysis.pictures.style import Picture


def analyse(study: str, analysis: Callable[[Dataset], Picture]) -> None:
    """Run an analysis on the result that the command line names.

    The first argument is the path of a result; by default the newest result of the study below
    ``outputs``. The second is the picture to write; by default ``analysis.png`` in the folder of
    the result.

    Parameters
    ----------
    study : str
        Name of the study.
    analysis : callable
        Takes the result, prints its findings and returns a picture.

    Raises
    ------
    SystemExit
        If there is no result or it cannot be analysed; the message is one sentence.
    """
    try:
        arguments = sys.argv[1:]
        if len(arguments) > 2:
            raise FlowError("give the path of a result and that of a picture, and nothing else")
        path = Path(arguments[0]) if arguments else newest(study)
        folder = path.parent if path.suffix == ".zarr" else path
        picture = analysis(open_study(path))
        target = arguments[1] if len(arguments) > 1 else folder / "analysis.png"
        print(f"picture  {picture.save(target)}")
    except FlowError as error:
        raise SystemExit(f"analyse.py: {error}") from None
    except BrokenPipeError:
        # The reader has ended (`| head`); discard what the interpreter still flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def open_study(path: Path) -> Dataset:
    """Open a result as one dataset.

    Raises
    ------
    FlowError
        If the result holds several jobs.
    """
    from xarray import Dataset

    from cubie_flow.analysis.opening import open_results

    data = open_results(path)
    if not isinstance(data, Dataset):
        raise FlowError(f"'{path}' holds several jobs; this analysis needs a single study")
    return data


def newest(study: str) -> Path:
    """Return the newest result of a study below ``outputs``.

    Raises
    ------
    FlowError
        If there is none.
    """
    stores = list(Path("outputs", study).glob("*/*/results.zarr"))
    if not stores:
        raise FlowError(
            f"there is no result below {Path('outputs', study)}; create one with "
            f"python -m cubie_flow experiment={study.removesuffix('_placement')}"
        )
    return max(stores, key=lambda store: store.stat().st_mtime)
