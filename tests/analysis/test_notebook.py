"""The example notebook runs, and shows what is kept in it."""

from pathlib import Path
from typing import Any

import pytest

from cubie_flow import OdeSystem, solve

BOOK = Path(__file__).parents[2] / "docs" / "example.ipynb"


def test_a_result_shows_its_summary_and_its_picture(lorenz: OdeSystem) -> None:
    data = solve(lorenz, parameters={"rho": [20.0, 28.0]}, duration=1.0, save_every=0.5)
    shown = data.flow._repr_html_()
    assert "success 2" in shown
    assert 'src="data:image/png;base64,' in shown
    assert "success 2" in repr(data.flow)
    only_status = data[["status"]]
    assert "<img" not in only_status.flow._repr_html_()


def _shown(book: Any) -> list[tuple[str, ...]]:
    """Return the kinds of output of every cell that has code."""
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    return [
        tuple(kind for out in cell.outputs for kind in sorted(out.get("data", {"text": ""})))
        for cell in cells
    ]


def test_the_example_notebook_runs_as_it_is_kept(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat and nbclient")
    nbclient = pytest.importorskip("nbclient", reason="needs nbformat and nbclient")
    pytest.importorskip("ipykernel", reason="needs a kernel for notebooks: ipykernel")
    assert BOOK.stat().st_size < 400_000
    kept = nbformat.read(BOOK, as_version=4)
    assert all(cell.execution_count for cell in kept.cells if cell.cell_type == "code")
    again = nbformat.read(BOOK, as_version=4)
    client = nbclient.NotebookClient(again, timeout=120, resources={"metadata": {"path": tmp_path}})
    client.execute()
    assert _shown(again) == _shown(kept)
    assert "image/png" in _shown(again)[-1]
