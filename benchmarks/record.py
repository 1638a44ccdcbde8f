"""The record of a measurement: a JSON file, by default in ``results/``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def read(path: Path) -> dict[str, Any]:
    """Return a record."""
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def is_record(record: Any) -> bool:
    """Return whether this harness wrote the record; it did not write older files of results."""
    return isinstance(record, dict) and {"machine", "cases", "figures"} <= record.keys()


def write(record: dict[str, Any], path: Path) -> None:
    """Write a record atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1, default=float) + "\n", encoding="utf-8")
    part.replace(path)
