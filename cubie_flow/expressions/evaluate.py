"""Evaluation of expression graphs in NumPy: the reference for both compiled targets.

Every operation rounds exactly as the compiled code does, fused multiply-adds included. With the
portable elementary functions, the values are therefore the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from cubie_flow.expressions.elementary import lower
from cubie_flow.expressions.graph import Node
from cubie_flow.expressions.traversal import topological

Array = Any


def fused_multiply_add(a: Array, b: Array, c: Array) -> Array:
    """Return ``a*b + c`` rounded once, for float32 or float64 arrays.

    float32 is computed in float64 and rounded to odd before the final rounding; float64 uses
    error-free transformations (Boldo and Melquiond, "Emulation of FMA and correctly rounded
    sums: proved algorithms using rounding to odd", IEEE Trans. Computers 57, 2008). The rounding
    is correct while the product does not overflow and has no subnormal error terms.

    Parameters
    ----------
    a, b, c : array, float32 or float64
        They broadcast against each other.
    """
    a, b, c = np.broadcast_arrays(a, b, c)
    with np.errstate(all="ignore"):
        if a.dtype == np.float32:
            product = a.astype(np.float64) * b.astype(np.float64)
            total, error = _two_sum(product, c.astype(np.float64))
            return np.asarray(_round_to_odd(total, error)).astype(np.float32)
        product = a * b
        plain = product + c
        low = _product_error(a, b, product)
        high, middle = _two_sum(c, low)
        total, small = _two_sum(product, high)
        result = total + _round_to_odd(*_two_sum(middle, small))
        usable = np.isfinite(result) & np.isfinite(low) & (product != 0.0)
        return np.where(usable, result, plain)


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _product_error(a: Array, b: Array, product: Array) -> Array:
    def split(x: Array) -> tuple[Array, Array]:
        scaled = 134217729.0 * x
        high = scaled - (scaled - x)
        return high, x - high

    a_high, a_low = split(a)
    b_high, b_low = split(b)
    return ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _round_to_odd(total: Array, error: Array) -> Array:
    pattern = np.asarray(total).view(np.int64)
    inexact_even = (error != 0.0) & ((pattern & 1) == 0) & np.isfinite(total)
    towards = np.where((error > 0.0) == (total > 0.0), 1, -1)
    return np.asarray(np.where(inexact_even, pattern + towards, pattern)).view(np.float64)


_NUMPY_FUNCTIONS: dict[str, Callable[..., Array]] = {
    "acos": np.arccos, "acosh": np.arccosh, "asin": np.arcsin, "asinh": np.arcsinh,
    "atan": np.arctan, "atan2": np.arctan2, "atanh": np.arctanh, "cbrt": np.cbrt, "cos": np.cos,
    "cosh": np.cosh, "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "hypot": np.hypot,
    "log": np.log, "log10": np.log10, "log1p": np.log1p, "log2": np.log2, "pow": np.power,
    "sin": np.sin, "sinh": np.sinh, "tan": np.tan, "tanh": np.tanh,
}  # fmt: skip

_COMPARE = {
    "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
    "==": np.equal, "!=": np.not_equal,
}  # fmt: skip

_OPERATIONS: dict[str, Callable[..., Array]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative,
    "fma": fused_multiply_add, "sqrt": np.sqrt, "fabs": np.abs, "floor": np.floor,
    "round": np.rint, "min": lambda a, b: np.where(a < b, a, b),
    "max": lambda a, b: np.where(a > b, a, b),
    "and": np.logical_and, "or": np.logical_or, "not": np.logical_not, "select": np.where,
    "rarely": np.where, "iadd": np.add, "isub": np.subtract, "imul": np.multiply,
    "iand": np.bitwise_and, "ior": np.bitwise_or, "ixor": np.bitwise_xor, "shl": np.left_shift,
    "ashr": np.right_shift,
}  # fmt: skip


def _function(name: str, *args: Array) -> Array:
    if name == "erf":
        from scipy.special import erf

        return erf(*args)
    return _NUMPY_FUNCTIONS[name](*args)


class Evaluator:
    """Evaluation of single nodes in one precision.

    Parameters
    ----------
    dtype : {"float32", "float64"}
        Precision; integers have the same width.
    """

    def __init__(self, dtype: Any) -> None:
        self.real = np.dtype(dtype).type
        self.whole = np.int32 if self.real is np.float32 else np.int64
        self.unsigned = np.uint32 if self.real is np.float32 else np.uint64

    def apply(self, node: Node, args: Sequence[Array]) -> Array:
        """Return the value of `node` from those of its operands."""
        match node.op:
            case "const":
                return self.real(node.value)
            case "integer":
                return self.whole(node.value)
            case "truth":
                return np.bool_(node.value)
            case "compare" | "icompare":
                return _COMPARE[node.value](*args)
            case "bits":
                return np.asarray(args[0], self.real).view(self.whole)
            case "from_bits":
                return np.asarray(args[0], self.whole).view(self.real)
            case "to_int":
                return np.asarray(args[0]).astype(self.whole)
            case "to_float":
                return np.asarray(args[0]).astype(self.real)
            case "lshr":
                shifted = np.asarray(args[0], self.whole).view(self.unsigned) >> np.asarray(
                    args[1], self.whole
                ).view(self.unsigned)
                return np.asarray(shifted).view(self.whole)
            case "table":
                values = np.asarray(node.value, self.real)
                return values[np.clip(args[0], 0, len(values) - 1)]
            case "call":
                return _function(node.value, *args)
        return _OPERATIONS[node.op](*args)


def evaluate(
    nodes: Sequence[Node],
    values: Mapping[str, Any],
    dtype: Any = "float64",
    math: Literal["library", "portable"] = "library",
) -> list[Any]:
    """Return the values of `nodes` for the given symbols.

    Parameters
    ----------
    nodes : sequence of Node
    values : mapping
        A number or array for every free symbol; arrays broadcast against each other.
    dtype : {"float32", "float64"}
    math : {"library", "portable"}
        Elementary functions of NumPy, or the polynomials that the CPU target compiles.

    Raises
    ------
    KeyError
        If a symbol has no value.
    """
    evaluator = Evaluator(dtype)
    if math == "portable":
        nodes = lower(nodes, 8 * np.dtype(dtype).itemsize)
    done: dict[Node, Any] = {}
    with np.errstate(all="ignore"):
        for node in topological(nodes):
            if node.op == "symbol":
                done[node] = np.asarray(values[node.value], evaluator.real)[()]
            else:
                done[node] = evaluator.apply(node, [done[arg] for arg in node.args])
    return [done[node] for node in nodes]
