"""Which runs keep their trajectories: a condition on what is kept of every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from cubie_flow.errors import FlowError, nearest
from cubie_flow.expressions.evaluate import evaluate
from cubie_flow.expressions.graph import Node, const, symbol
from cubie_flow.integrators.status import STATUS
from cubie_flow.systems.parser import Expression
from cubie_flow.systems.scope import Scope

Array = Any
KEY = "output.trajectories.where"


@frozen
class Screen:
    """A condition such as ``v_max > 20 and status == success``.

    Parameters
    ----------
    text : str
    names : tuple of str
        What it reads, as the store calls it.
    """

    text: str
    names: tuple[str, ...]
    _condition: Node

    @classmethod
    def read(cls, text: str, known: Sequence[str]) -> Screen:
        """Read a condition; the equations' own parser does it, so nothing is executed.

        Parameters
        ----------
        text : str
        known : sequence of str
            Names of what is kept of every run. The names of statuses are numbers besides.

        Raises
        ------
        FlowError
            Naming the key, what is wrong and the nearest name.
        """
        expression = Expression.read(text, KEY)
        scope = Scope({name: const(code) for name, code in STATUS.items()})
        scope.names.update({name: symbol(name) for name in known})
        for name in sorted(expression.names):
            if name in STATUS and name in known:
                raise FlowError(
                    f"{KEY}: '{name}' is a status and a quantity of the model; rename the quantity"
                )
            if not scope.knows(name):
                raise FlowError(
                    f"{KEY}: '{name}' is nothing that is kept of every run (there are "
                    f"{', '.join(known)}){nearest(name, known)}"
                )
        condition = expression.build(scope)
        if condition.kind == "float":
            raise FlowError(f"{KEY}: '{text}' is a number; it must be a condition such as x > 1")
        return cls(text, tuple(name for name in known if name in expression.names), condition)

    def holds(self, arrays: Mapping[str, Array], runs: int) -> Array:
        """Return for which runs the condition holds, bool, shape (runs,); a NaN satisfies none."""
        values = {name: np.asarray(arrays[name], np.float64) for name in self.names}
        (found,) = evaluate([self._condition], values)
        return np.broadcast_to(np.asarray(found, bool), (runs,))
