"""A spreadsheet that opens an exported CSV file computes nothing that the store says."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from cubie_flow.analysis.export import export

NASTY = [
    '=HYPERLINK("http://203.0.113.7")', "+1+1", "-2+3", "@SUM(1+1)", "\t=1", "\r=1", "\n=1", "＝1",
]  # fmt: skip


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("text", NASTY)
def test_texts_and_names_are_no_formulas(text: str, tmp_path: Path) -> None:
    data = xr.Dataset(
        {text: ("run", [1.5, -2.5]), "label": ("run", np.array([text, "-7"], object))},
        attrs={"title": text},
    )
    export(data, tmp_path / "runs.csv")
    (_, name, _), first, second = rows(tmp_path / "runs.csv")
    assert name.startswith("'")
    assert first == ["0", "1.5", name]
    assert second == ["1", "-2.5", "-7"]


@pytest.mark.parametrize("text", ["a;=1+1", "a\r=1+1", "a\r\n@SUM(1)", "a|=1", "a\t=1"])
def test_no_separator_begins_a_formula(text: str, tmp_path: Path) -> None:
    data = xr.Dataset({"label": ("run", np.array([text, "good"], object))})
    export(data, tmp_path / "runs.csv")
    _, (_, cell), _ = rows(tmp_path / "runs.csv")
    assert "'=" in cell or "'@" in cell
    assert "\r" not in (tmp_path / "runs.csv").read_text(encoding="utf-8")


def test_words_of_a_status_are_no_formulas(tmp_path: Path) -> None:
    flags = {"flag_values": [0, 1], "flag_meanings": "=1+1 good"}
    data = xr.Dataset({"status": ("run", np.array([0, 1], np.uint8), flags)})
    export(data, tmp_path / "runs.csv")
    assert [row[1] for row in rows(tmp_path / "runs.csv")] == ["status", "'=1+1", "good"]


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    values = [-1.0, 1e300, -2.5e-7, np.nan, -np.inf]
    export(xr.Dataset({"x": ("run", values)}), tmp_path / "runs.csv")
    read = [float(row[1] or "nan") for row in rows(tmp_path / "runs.csv")[1:]]
    np.testing.assert_array_equal(read, values)
