"""What every ``experiments/*/analyse.py`` shares: which result, where the picture goes."""

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

    Its first argument is the path of a result, by default the newest of the study below
    ``outputs``; its second is the picture to write, by default ``analysis.png`` beside the result.

    Parameters
    ----------
    study : str
    analysis : callable
        Takes the result, prints what it shows and returns a picture.

    Raises
    ------
    SystemExit
        With one sentence, if there is no result or it cannot be analysed.
    """
    try:
        given = sys.argv[1:]
        if len(given) > 2:
            raise FlowError("give the path of a result and that of a picture, and nothing else")
        path = Path(given[0]) if given else newest(study)
        beside = path.parent if path.suffix == ".zarr" else path
        picture = analysis(opened(path))
        print(f"picture  {picture.save(given[1] if len(given) > 1 else beside / 'analysis.png')}")
    except FlowError as error:
        raise SystemExit(f"analyse.py: {error}") from None
    except BrokenPipeError:
        # The reader has gone (`| head`); what the interpreter still flushes goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def opened(path: Path) -> Dataset:
    """Open the one dataset of a result."""
    from xarray import Dataset

    from cubie_flow.analysis.opening import open_results

    data = open_results(path)
    if not isinstance(data, Dataset):
        raise FlowError(f"'{path}' holds several jobs; this analysis is of one study")
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
            f"there is no result below {Path('outputs', study)}; "
            f"python -m cubie_flow experiment={study.removesuffix('_placement')} makes one"
        )
    return max(stores, key=lambda store: store.stat().st_mtime)
