"""Models: what is integrated, read from YAML, from equations as text or from a function."""

from cubie_flow.systems.parser import parse_expression
from cubie_flow.systems.quantities import Observable, Quantity
from cubie_flow.systems.system import OdeSystem

__all__ = ["Observable", "OdeSystem", "Quantity", "parse_expression"]
