"""Equations written line by line, as in a paper."""

from __future__ import annotations

import re

from cubie_flow.errors import FlowError
from cubie_flow.systems.quantities import shortened

_DERIVATIVE = re.compile(r"d\s*(\w+(?:\[[^\]]*\])?)\s*/\s*d\s*t|(\w+(?:\[[^\]]*\])?)\s*'")


def read_equations(text: str, where: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the right-hand sides of equations, and those of observables, by name.

    Parameters
    ----------
    text : str
        Lines ``dx/dt = ...``, ``x' = ...`` or ``name = ...``; ``#`` begins a comment.
    where : str
        Names the system in errors.

    Raises
    ------
    FlowError
        If a line is not an equation, or two lines have one left-hand side.
    """
    equations: dict[str, str] = {}
    observables: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.split("#", 1)[0].strip()
        if not line:
            continue
        left, sign, right = (part.strip() for part in line.partition("="))
        if not sign or not left or not right:
            raise FlowError(
                f"{where}, line {number}: {shortened(line)} is not an equation; write dx/dt = ... "
                "or name = ..."
            )
        derivative = _DERIVATIVE.fullmatch(left)
        name = (derivative[1] or derivative[2]) if derivative else left
        group = equations if derivative else observables
        if name in group:
            raise FlowError(f"{where}, line {number}: {shortened(left)} is given twice")
        group[name] = right
    return equations, observables
