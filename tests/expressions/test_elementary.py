"""Elementary functions: accurate everywhere, exact special values, the same bits everywhere."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import mpmath
import numpy as np
import pytest
from llvmlite import ir

from cubie_flow.expressions import graph as g
from cubie_flow.expressions.block import BlockBuilder
from cubie_flow.expressions.dialect import Dialect, Place
from cubie_flow.expressions.elementary import coefficients, lower
from cubie_flow.expressions.emit import BlockEmitter
from cubie_flow.expressions.emit_memory import I8
from cubie_flow.expressions.evaluate import evaluate
from cubie_flow.expressions.traversal import substitute, topological

Array = Any
WIDTHS = (64, 32)
REAL: dict[int, Any] = {64: np.float64, 32: np.float32}
WHOLE: dict[int, Any] = {64: np.int64, 32: np.int32}
INF, NAN = math.inf, math.nan
POINTS = 1_000_000
ROWS = 2048

# where a model uses the function, in 64 bits; in 32 bits where that overflows
RANGES: dict[str, tuple[float, float]] = {
    "acos": (-1, 1), "acosh": (1, 20), "asin": (-1, 1), "asinh": (-20, 20), "atan": (-10, 10),
    "atan2": (-10, 10), "atanh": (-1, 1), "cbrt": (-10, 10), "cos": (-100, 100),
    "cosh": (-712, 712), "erf": (-6, 6), "exp": (-746, 711), "exp2": (-1076, 1025),
    "expm1": (-40, 711), "hypot": (-10, 10), "log": (0, 10), "log10": (0, 10), "log1p": (-1, 5),
    "log2": (0, 10), "pow": (0, 10), "sin": (-100, 100), "sinh": (-712, 712),
    "tan": (-100, 100), "tanh": (-22, 22),
}  # fmt: skip
RANGES_32 = {
    "cosh": (-90, 90), "exp": (-105, 90), "exp2": (-151, 129), "expm1": (-20, 90),
    "sinh": (-90, 90), "tanh": (-10, 10),
}  # fmt: skip
NAMES = tuple(RANGES)

FUNCTIONS: dict[str, Callable[..., Array]] = {
    "acos": np.arccos, "acosh": np.arccosh, "asin": np.arcsin, "asinh": np.arcsinh,
    "atan": np.arctan, "atan2": np.arctan2, "atanh": np.arctanh, "cbrt": np.cbrt, "cos": np.cos,
    "cosh": np.cosh, "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "hypot": np.hypot,
    "log": np.log, "log10": np.log10, "log1p": np.log1p, "log2": np.log2, "pow": np.power,
    "sin": np.sin, "sinh": np.sinh, "tan": np.tan, "tanh": np.tanh,
}  # fmt: skip


def call(name: str, *args: g.Node | float) -> g.Node:
    return g.call(name, *(args or (g.symbol("x"), g.symbol("y"))[: g.FUNCTIONS[name]]))


def compile_function(node: g.Node, width: int) -> Callable[..., Array]:
    """Compile a node of x and y to vectors, through a block that runs over many rows."""
    real, lanes = ("float64", 8) if width == 64 else ("float32", 16)
    symbols = {"x": 0, "y": 1}
    loads = {g.symbol(name): g.load(name, 0, 1) for name in symbols}
    builder = BlockBuilder()
    builder.sweep(ROWS, {"z": substitute([node], loads)[0]})
    row = width // 8
    places = {n: Place("local", i * ROWS * row, real, ROWS) for i, n in enumerate("xyz")}
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = ir.Module()
    kind = ir.FunctionType(ir.VoidType(), [ir.PointerType(I8)])
    function = ir.Function(module, kind, "entry")
    entry = ir.IRBuilder(function.append_basic_block())
    emitter = BlockEmitter(entry, Dialect(real, lanes), places, {"local": function.args[0]})
    emitter.run(builder.build("elementary"))
    entry.ret_void()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=2
    )
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), machine)
    engine.finalize_object()
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(engine.get_function_address("entry"))
    arena = np.ones((3, ROWS * lanes), REAL[width])

    def apply(*args: Array) -> Array:
        assert engine
        result = np.empty(args[0].shape, REAL[width])
        for start in range(0, result.size, ROWS * lanes):
            part = slice(start, start + ROWS * lanes)
            for row, arg in zip(arena, args, strict=False):
                row[: arg[part].size] = arg[part]
            run(arena.ctypes.data)
            result[part] = arena[2, : result[part].size]
        return result

    return apply


@cache
def compiled(name: str, width: int) -> Callable[..., Array]:
    return compile_function(call(name), width)


def wide_erf(x: Array) -> Array:
    """Sum a series of positive terms; NumPy has no erf in long double."""
    size = np.where(np.abs(x) < 7, np.abs(x), 0)
    term = total = size
    for n in range(1, 260):
        term = term * (2 * size * size) / (2 * n + 1)
        total = total + term
        if not (term > total * 1e-21).any():
            break
    value = np.minimum(total * np.exp(-size * size) / np.sqrt(np.arctan(x.dtype.type(1))), 1)
    value = np.where(np.abs(x) >= 7, 1, value)
    return np.where(np.isnan(x), x, np.copysign(value, x))


def reference(name: str, width: int, args: tuple[Array, ...]) -> Array:
    """Return the values in a wider format, nearly correct there."""
    wide = np.longdouble if width == 64 else np.float64
    with np.errstate(all="ignore"):
        return FUNCTIONS.get(name, wide_erf)(*(arg.astype(wide) for arg in args))


def ulps(got: Array, exact: Array) -> Array:
    """Return errors in units of the last place of the exact value, subnormal numbers included.

    Infinity counts as the number after the largest; a wrong sign of zero, or NaN on one side
    only, as infinitely wrong.
    """
    limits = np.finfo(got.dtype)
    with np.errstate(all="ignore"):
        rounded = exact.astype(got.dtype)
        unit = np.spacing(np.minimum(np.abs(rounded), limits.max)).astype(exact.dtype)
        # a power of two belongs to the numbers below it if the exact value does
        below = np.abs(exact) < np.abs(rounded)
        power = np.abs(rounded) == exact.dtype.type(2) ** np.round(np.log2(np.abs(exact)))
        unit = np.where(below & power & (np.abs(rounded) > limits.tiny), unit / 2, unit)
        top = 2 * exact.dtype.type(2.0 ** (limits.maxexp - 1))
        finite_exact, finite_got = (
            np.where(np.abs(v) > top, np.copysign(top, v), v)
            for v in (exact, got.astype(exact.dtype))
        )
        error = np.abs(finite_got - finite_exact) / unit
    wrong = np.isnan(got) != np.isnan(exact)
    wrong |= (got == 0) & (exact == 0) & (np.signbit(got) != np.signbit(exact))
    return np.where(wrong, INF, np.where(np.isnan(exact), 0, error))


def arguments(name: str, width: int, count: int) -> tuple[Array, ...]:
    """Return every kind of number: all bit patterns, the usual range, near 0, 1 and limits."""
    rng = np.random.default_rng([width, len(name), ord(name[0])])
    real, whole = REAL[width], WHOLE[width]
    low, high = RANGES_32.get(name, RANGES[name]) if width == 32 else RANGES[name]

    def mixture() -> Array:
        limits = np.iinfo(whole)
        part = count // 4
        patterns = rng.integers(limits.min, limits.max, part, whole, endpoint=True)
        small = rng.uniform(-1, 1, part) * 2.0 ** rng.uniform(-30, 8, part)
        near_one = 1 + rng.uniform(-1, 1, part) * 2.0 ** rng.uniform(-26, 0, part)
        usual = rng.uniform(low, high, count - 3 * part)
        with np.errstate(all="ignore"):
            parts = [patterns.view(real), usual.astype(real), small.astype(real)]
            return np.concatenate([*parts, near_one.astype(real)])

    x = mixture()
    if name == "pow":
        # exponents that reach the whole range of results, from overflow to underflow
        span = (-750, 712) if width == 64 else (-105, 90)
        with np.errstate(all="ignore"):
            y = (rng.uniform(*span, count) / np.log(np.abs(x.astype(float)))).astype(real)
        x[: count // 2] = np.abs(x[: count // 2])
        y[count // 2 :: 2] = np.round(y[count // 2 :: 2])
        y[::16] = rng.permutation(mixture())[::16]
        return x, y
    if g.FUNCTIONS[name] == 2:
        y = rng.permutation(mixture())
        with np.errstate(all="ignore"):
            y[::2] = (x * rng.uniform(-4, 4, count))[::2].astype(real)
        return x, y
    return (x,)


wide_enough = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 63, reason="long double is no wider than double here"
)


@wide_enough
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_at_most_two_ulps(name: str, width: int) -> None:
    args = arguments(name, width, POINTS)
    got = compiled(name, width)(*args)
    errors = ulps(got, reference(name, width, args))
    worst = int(errors.argmax())
    assert errors[worst] <= 2.0, (errors[worst], [arg[worst] for arg in args], got[worst])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_compiled_vectors_give_the_bits_of_numpy(name: str, width: int) -> None:
    args = arguments(name, width, 20_000)
    # The fused multiply-add in NumPy is not exact where its products are nearly subnormal.
    args = tuple(np.where(np.abs(arg) < np.finfo(arg.dtype).tiny * 1e18, 0, arg) for arg in args)
    args = tuple(arg.astype(REAL[width]) for arg in args)
    got = compiled(name, width)(*args)
    (expected,) = evaluate(
        [call(name)], dict(zip("xy", args, strict=False)), REAL[width], math="portable"
    )
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    numbers = ~np.isnan(got)
    np.testing.assert_array_equal(
        got[numbers].view(WHOLE[width]), expected[numbers].view(WHOLE[width])
    )


@wide_enough
@pytest.mark.parametrize(("table", "name"), [("EXP", "exp"), ("SIN", "sin"), ("ATAN", "atan")])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_worse_coefficient_is_noticed(
    table: str, name: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = getattr(coefficients, table)
    first, *others = values[width]
    worse = first * (1 + (2.0**-46 if width == 64 else 2.0**-17))
    monkeypatch.setitem(values, width, (worse, *others))
    args = arguments(name, width, POINTS // 10)
    got = compile_function(call(name), width)(*args)
    assert ulps(got, reference(name, width, args)).max() > 2.0


# against mpmath ---------------------------------------------------------------------------------


def exact_ulps(name: str, width: int, args: tuple[Array, ...], got: Array) -> Array:
    """Return errors against values of 200 bits and more."""
    functions: dict[str, Callable[..., Any]] = {
        "acos": mpmath.acos, "acosh": mpmath.acosh, "asin": mpmath.asin, "asinh": mpmath.asinh,
        "atan": mpmath.atan, "atan2": mpmath.atan2, "atanh": mpmath.atanh, "cos": mpmath.cos,
        "cosh": mpmath.cosh, "erf": mpmath.erf, "exp": mpmath.exp, "expm1": mpmath.expm1,
        "exp2": lambda x: mpmath.power(2, x), "hypot": mpmath.hypot, "log": mpmath.log,
        "log1p": mpmath.log1p,
        "cbrt": lambda x: mpmath.sign(x) * mpmath.cbrt(abs(x)), "log10": mpmath.log10,
        "log2": lambda x: mpmath.log(x, 2), "pow": mpmath.power, "sin": mpmath.sin,
        "sinh": mpmath.sinh, "tan": mpmath.tan, "tanh": mpmath.tanh,
    }  # fmt: skip
    digits, least = (52, -1074) if width == 64 else (23, -149)
    errors = []
    with mpmath.workprec(1400 if name in ("sin", "cos", "tan") else 300):
        for number, *arg in zip(got, *args, strict=True):
            exact = functions[name](*(mpmath.mpf(float(a)) for a in arg))
            exponent = mpmath.frexp(exact)[1] - 1 if exact else least
            error = abs(mpmath.mpf(float(number)) - exact)
            errors.append(float(mpmath.ldexp(error, -max(exponent - digits, least))))
    return np.array(errors)


def hard_arguments(name: str, width: int) -> tuple[Array, ...]:
    """Return arguments where the function is hard to compute."""
    rng = np.random.default_rng(11)
    real = REAL[width]
    limits = np.finfo(real)
    high = {64: 709.78, 32: 88.72}[width]
    low = {64: 745.13, 32: 103.97}[width]

    def near(*centres: float) -> Array:
        """Neighbours of some numbers."""
        steps = np.arange(-12, 13)
        start = np.array(centres, real)[:, None].view(WHOLE[width])
        return (start + steps).astype(WHOLE[width]).view(real).ravel()

    if name in ("sin", "cos", "tan"):
        quarters = np.rint(2.0 ** rng.uniform(0, 60 if width == 64 else 30, 300))
        multiples = [float(k * mpmath.pi / 2) for k in quarters.tolist()]
        bound = 2.0**28 if width == 64 else 2.0**14
        huge = 2.0 ** rng.uniform(14, 1023 if width == 64 else 127, 300)
        # the numbers that come nearest to a multiple of pi/2 beside their size
        worst = [6381956970095103.0 * 2.0**797] if width == 64 else [16367173.0 * 2.0**72]
        others = np.array([*multiples, *huge], real)
        return (np.concatenate([near(*multiples[:60], bound, *worst), others]),)
    if name == "pow":
        x = np.exp(rng.uniform(-1, 1, 400) * 2.0 ** rng.uniform(-20, 6, 400)).astype(real)
        y = (rng.choice([high, -low, high - 1, 2 - low], 400) / np.log(x.astype(float))).astype(
            real
        )
        return x, y
    if name in ("atan2", "hypot"):
        x = rng.normal(size=400) * 2.0 ** rng.uniform(-60, 60, 400)
        y = x * 2.0 ** rng.uniform(-30, 30, 400)
        return x.astype(real), y.astype(real)
    tiny = [float(limits.tiny), float(limits.smallest_subnormal) * 40, 1e-10, 0.02]
    middle = {
        "acosh": [1.0 + 40 * limits.eps, 1.01, 1e9, float(limits.max) / 2],
        "log": [*tiny, 0.70710678, 1.0, 1.41421356, float(limits.max) / 2],
        "log1p": [*tiny, -0.5, -0.999, 0.41421356, float(limits.max) / 2],
        "exp": [*tiny, 0.34657359, 1.0, -low, -high, high],
        "cosh": [*tiny, 0.34657359, 1.0, -high, high],
        "asin": [*tiny, 0.5, -0.5, 1.0 - 40 * limits.eps],
        "atanh": [*tiny, 0.5, -0.9, 1.0 - 40 * limits.eps],
    }
    alias = {"log2": "log", "log10": "log", "expm1": "exp", "sinh": "cosh", "acos": "asin"}
    default = [*tiny, 0.41421356, 1.0, -2.0, 5.5]
    if name == "exp2":
        return (near(*tiny, 0.5, 1.0, *(math.floor(v / math.log(2)) for v in (high, -high))),)
    points = near(*middle.get(alias.get(name, name), default))
    return (points[np.isfinite(points) & (points != 0)],)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_hard_arguments_against_mpmath(name: str, width: int) -> None:
    args = hard_arguments(name, width)
    got = compiled(name, width)(*args)
    inside = np.isfinite(got)
    assert inside.mean() > 0.5
    args = tuple(arg[inside] for arg in args)
    errors = exact_ulps(name, width, args, got[inside])
    worst = int(errors.argmax())
    assert errors[worst] <= 2.0, (errors[worst], [arg[worst] for arg in args])


# special values ---------------------------------------------------------------------------------

BIG = 1e300
SPECIAL: dict[str, list[tuple[float, ...]]] = {
    "exp": [(0, 1), (-0.0, 1), (INF, INF), (-INF, 0), (BIG, INF), (-BIG, 0)],
    "exp2": [(0, 1), (INF, INF), (-INF, 0), (-5, 1 / 32), (100, 2.0**100), (BIG, INF), (-BIG, 0)],
    "expm1": [(0, 0), (-0.0, -0.0), (INF, INF), (-INF, -1), (-BIG, -1), (BIG, INF), (-1000, -1)],
    "log": [(1, 0), (0, -INF), (-0.0, -INF), (INF, INF), (-1, NAN), (-INF, NAN)],
    "log2": [(1, 0), (8, 3), (2.0**-100, -100), (0, -INF), (INF, INF), (-1, NAN)],
    "log10": [(1, 0), (0, -INF), (-0.0, -INF), (INF, INF), (-1, NAN)],
    "log1p": [(0, 0), (-0.0, -0.0), (-1, -INF), (INF, INF), (-1.5, NAN), (-INF, NAN)],
    "cbrt": [(0, 0), (-0.0, -0.0), (8, 2), (-27, -3), (INF, INF), (-INF, -INF)],
    "sin": [(0, 0), (-0.0, -0.0), (INF, NAN), (-INF, NAN)],
    "cos": [(0, 1), (-0.0, 1), (INF, NAN), (-INF, NAN)],
    "tan": [(0, 0), (-0.0, -0.0), (INF, NAN), (-INF, NAN)],
    "asin": [(0, 0), (-0.0, -0.0), (1, math.pi / 2), (-1, -math.pi / 2), (1.1, NAN), (-INF, NAN)],
    "acos": [(1, 0), (-1, math.pi), (0, math.pi / 2), (1.1, NAN), (-1.1, NAN), (INF, NAN)],
    "atan": [(0, 0), (-0.0, -0.0), (INF, math.pi / 2), (-INF, -math.pi / 2), (BIG, math.pi / 2)],
    "sinh": [(0, 0), (-0.0, -0.0), (INF, INF), (-INF, -INF), (-BIG, -INF)],
    "cosh": [(0, 1), (INF, INF), (-INF, INF), (-BIG, INF)],
    "tanh": [(0, 0), (-0.0, -0.0), (INF, 1), (-INF, -1), (50, 1), (-BIG, -1)],
    "asinh": [(0, 0), (-0.0, -0.0), (INF, INF), (-INF, -INF)],
    "acosh": [(1, 0), (INF, INF), (0.5, NAN), (-INF, NAN), (-1, NAN)],
    "atanh": [(0, 0), (-0.0, -0.0), (1, INF), (-1, -INF), (1.5, NAN), (-INF, NAN)],
    "erf": [(0, 0), (-0.0, -0.0), (INF, 1), (-INF, -1), (BIG, 1), (-7, -1)],
    "hypot": [(3, 4, 5), (0, -0.0, 0), (INF, NAN, INF), (NAN, -INF, INF), (NAN, 1, NAN),
              (-5, 0, 5), (-INF, 2, INF)],
    "atan2": [
        (0, 1, 0), (-0.0, 1, -0.0), (0, -1, math.pi), (-0.0, -1, -math.pi), (0, 0, 0),
        (-0.0, 0, -0.0), (0, -0.0, math.pi), (-0.0, -0.0, -math.pi), (1, 0, math.pi / 2),
        (-1, -0.0, -math.pi / 2), (INF, INF, math.pi / 4), (INF, -INF, 3 * math.pi / 4),
        (-INF, INF, -math.pi / 4), (INF, 1, math.pi / 2), (1, INF, 0), (-1, INF, -0.0),
        (1, -INF, math.pi), (-1, -INF, -math.pi), (NAN, 1, NAN), (1, NAN, NAN), (2, 2, math.pi / 4),
    ],
    # C99, F.9.4.4
    "pow": [
        (0, -3, INF), (-0.0, -3, -INF), (0, -2, INF), (-0.0, -2, INF), (-0.0, -2.5, INF),
        (0, 3, 0), (-0.0, 3, -0.0), (-0.0, 2, 0), (-0.0, 2.5, 0), (-1, INF, 1), (-1, -INF, 1),
        (1, NAN, 1), (1, INF, 1), (NAN, 0, 1), (NAN, -0.0, 1), (INF, 0, 1), (-2, 0, 1),
        (-2, 2.5, NAN), (-2, -0.5, NAN), (0.5, -INF, INF), (-0.5, -INF, INF), (2, -INF, 0),
        (-2, -INF, 0), (0.5, INF, 0), (-0.5, INF, 0), (2, INF, INF), (-2, INF, INF),
        (-INF, -3, -0.0), (-INF, -2, 0), (-INF, -2.5, 0), (-INF, 3, -INF), (-INF, 2, INF),
        (-INF, 2.5, INF), (INF, -1, 0), (INF, 1, INF), (NAN, 1, NAN), (2, NAN, NAN),
        (-NAN, NAN, NAN), (-3, 3, -27), (-3, 4, 81), (2, -3, 0.125), (0, 0, 1), (-0.0, -0.0, 1),
        (0, INF, 0), (0, -INF, INF), (-2, 1e30, INF), (10, 1e30, INF), (10, -1e30, 0),
    ],
}  # fmt: skip


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_special_values(name: str, width: int) -> None:
    rows = [*SPECIAL[name]]
    if g.FUNCTIONS[name] == 1:
        rows.append((NAN, NAN))
    with np.errstate(over="ignore"):
        *args, expected = np.array(rows).T.astype(REAL[width])
    got = compiled(name, width)(*args)
    # zero, infinite and whole ones exactly
    tolerance = np.where(np.rint(expected) == expected, 0, np.finfo(REAL[width]).eps)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    with np.errstate(invalid="ignore"):
        near = np.abs(got - expected) <= tolerance * np.abs(expected)
    assert np.all(near | (got == expected) | np.isnan(got)), (got, expected)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got[numbers]), np.signbit(expected[numbers]))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_not_a_number_passes_whatever_its_bits(name: str, width: int) -> None:
    rng = np.random.default_rng(5)
    patterns = rng.integers(1, np.iinfo(WHOLE[width]).max, 500, WHOLE[width])
    exponent = np.array(INF, REAL[width]).view(WHOLE[width])
    nans = (patterns | exponent).view(REAL[width])
    others = rng.normal(size=500).astype(REAL[width])
    for args in ((nans, others), (others, nans), (-nans, nans))[: 2 * g.FUNCTIONS[name] - 1]:
        got = compiled(name, width)(*args[: g.FUNCTIONS[name]])
        assert np.isnan(got).all()


# as graphs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_elementary_is_left(width: int) -> None:
    nodes = lower([call(name) for name in g.FUNCTIONS], width)
    assert not [node for node in topological(nodes) if node.op == "call"]


def test_sine_and_cosine_share_their_reduction() -> None:
    def size(*names: str) -> int:
        return len(topological(lower([call(name) for name in names], 64)))

    assert size("sin", "cos") < 1.3 * size("sin")
    assert size("sinh", "cosh") < 1.3 * size("sinh")


@pytest.mark.parametrize("width", WIDTHS)
def test_literal_arguments_round_like_values(width: int) -> None:
    x = np.linspace(0.01, 30, 500).astype(REAL[width])
    for exponent in (0.7, -1 / 3, 16777217.3):
        (literal,) = evaluate([g.symbol("x") ** exponent], {"x": x}, REAL[width], math="portable")
        values = {"x": x, "y": np.full_like(x, exponent)}
        (value,) = evaluate([call("pow")], values, REAL[width], math="portable")
        np.testing.assert_array_equal(literal, value)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (call("exp", 1e4), INF),
        (call("log", 0.0), -INF),
        (call("log", -1.0), NAN),
        (call("atanh", 1.0), INF),
        (call("sin", INF), NAN),
        (call("tanh", INF), 1.0),
        (call("pow", -2.0, 0.5), NAN),
        (call("pow", 10.0, 4000.0), INF),
    ],
)
def test_literals_that_cannot_be_folded(node: g.Node, expected: float, width: int) -> None:
    (value,) = evaluate([node], {}, REAL[width], math="portable")
    np.testing.assert_array_equal(value, expected)
