"""Servers that are slow, stopped or refuse."""

from __future__ import annotations

from benchmarks.faults.trial import Trial

TRIALS: dict[str, Trial] = {}
