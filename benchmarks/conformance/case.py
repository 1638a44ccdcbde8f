"""A case: a model, a batch of runs over it, and how it is integrated; kept as YAML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from attrs import asdict, evolve, field, frozen

from cubie_flow import OdeSystem, solve
from cubie_flow.batches import make_design
from cubie_flow.study.options import ControllerChoice, OutputChoice, TargetChoice
from cubie_flow.study.study import Study

Array = Any


@frozen
class Case:
    """What is integrated, as plain values.

    Parameters
    ----------
    name : str
        Seed and number.
    model : dict
        As a YAML file of a model has it.
    columns : dict
        One list per varied quantity, one value per run.
    duration, t_start : float
    times : list of float
        Saved times after the start; empty for the final state only.
    algorithm, precision, linear_solver : str
    rtol : float
    atol : dict or float
    dt : float or None
        Of a method with a fixed step.
    dt_max : float or None
    max_steps : int
    lanes : int or None
    summaries : list of str
    switches : list of dict
        Times at which the equations are not smooth, for the reference: ``{at: text}``,
        ``{start: text, every: text}`` or ``{root: text}``.
    stiff : bool
        Whether the reference needs an implicit method.
    features : list of str
        What the model contains, for the counts of a campaign.
    """

    name: str
    model: dict[str, Any]
    columns: dict[str, list[float]] = field(factory=dict)
    duration: float = 1.0
    t_start: float = 0.0
    times: list[float] = field(factory=list)
    algorithm: str = "tsit5"
    precision: str = "float64"
    linear_solver: str = "auto"
    rtol: float = 1e-6
    atol: Any = 1e-9
    dt: float | None = None
    dt_max: float | None = None
    max_steps: int = 30_000
    lanes: int | None = None
    summaries: list[str] = field(factory=list)
    switches: list[dict[str, str]] = field(factory=list)
    stiff: bool = False
    features: list[str] = field(factory=list)

    @property
    def runs(self) -> int:
        """Number of runs."""
        return max((len(values) for values in self.columns.values()), default=1)

    def values(self, run: int) -> dict[str, float]:
        """Return what the batch gives to one run."""
        return {name: values[run] for name, values in self.columns.items()}

    def chosen(self, runs: list[int]) -> Case:
        """Return the case with some of its runs."""
        columns = {name: [values[i] for i in runs] for name, values in self.columns.items()}
        last = max(columns.get("duration", [self.duration]))
        return evolve(self, columns=columns, times=[time for time in self.times if time <= last])

    def at_tolerance(self, rtol: float) -> Case:
        """Return the case at another tolerance; absolute ones change by the same factor.

        Methods of low order may take many more steps at a tighter one.
        """
        factor = rtol / self.rtol
        atol = self.atol
        if isinstance(atol, Mapping):
            atol = {name: value * factor for name, value in atol.items()}
        else:
            atol = atol * factor
        steps = self.max_steps * (10 if factor < 1.0 else 1)
        return evolve(self, rtol=rtol, atol=atol, max_steps=steps)

    @property
    def system(self) -> OdeSystem:
        """The model, read by cubie_flow."""
        return OdeSystem.from_mapping(self.model)

    @property
    def saved(self) -> list[str]:
        """Names of what is saved over time: all states and observables."""
        return [*self.model["states"], *(self.model.get("observables") or {})]

    def study(self, **changes: Any) -> Study:
        """Return the study of this case, with changes of its fields."""
        controller = {"kind": "fixed", "dt": self.dt} if self.dt else {"dt_max": self.dt_max}
        given: dict[str, Any] = {
            "system": self.system,
            "design": make_design("zip", self.columns)
            if self.columns
            else make_design("single", {}),
            "duration": None if "duration" in self.columns else self.duration,
            "t_start": self.t_start,
            "algorithm": self.algorithm,
            "precision": self.precision,
            "linear_solver": self.linear_solver,
            "controller": ControllerChoice(
                rtol=self.rtol, atol=self.atol, max_steps=self.max_steps, **controller
            ),
            "output": OutputChoice(
                times=self.times or None,
                variables=self.saved if self.times else None,
                summaries=self.summaries or None,
            ),
            "target": TargetChoice("cpu", threads=1, lanes=self.lanes),
        }
        return Study(**{**given, **changes})

    def to_mapping(self) -> dict[str, Any]:
        """Return the case as plain values, without what is as by default."""
        found = asdict(self, recurse=False)
        defaults = asdict(Case("", {}), recurse=False)
        return {
            key: value for key, value in found.items() if value != defaults[key] or key == "name"
        }


def solved(case: Case, **changes: Any) -> dict[str, Array]:
    """Return every array that cubie_flow gives for a case, coordinates included, by name."""
    from cubie_flow.api import solve_study

    data = solve_study(case.study(**changes))
    return {str(name): np.asarray(array.values) for name, array in data.variables.items()}


def write_case(path: Path, case: Case, **about: Any) -> None:
    """Write a case and what is known about it as YAML."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**about, "case": case.to_mapping()}
    path.write_text(
        yaml.safe_dump(content, sort_keys=False, width=100, default_flow_style=None),
        encoding="utf-8",
    )


def read_case(path: Path) -> tuple[Case, dict[str, Any]]:
    """Return a case of a file, and what else the file says."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return Case(**content.pop("case")), content


__all__ = ["Case", "read_case", "solve", "solved", "write_case"]
