"""The linear systems of implicit steps, as statements of a block.

``(c*M - J) x = b`` with the mass matrix M, the exact Jacobian J of the model and a scalar c of
the size of one over the step; for a pair of complex conjugate shifts the real system of twice
the size ``[[alpha*M - J, -beta*M], [beta*M, alpha*M - J]]``.
"""

from __future__ import annotations

from functools import lru_cache

from attrs import field, frozen

from cubie_flow.errors import one_of
from cubie_flow.expressions.block import UNROLL_LIMIT, BlockBuilder, Function
from cubie_flow.expressions.graph import (
    ZERO,
    Node,
    compare,
    const,
    directional,
    fabs,
    load,
    logical_and,
    logical_not,
    logical_or,
    sparse_jacobian,
    sqrt,
    symbol,
    where,
)
from cubie_flow.expressions.sparse_lu import LU, choose_pivots, factorise
from cubie_flow.memory import CUDAFactory, buffer_registry

#: Multiplications above which a sparse factorisation is no longer written out; measured in
#: docs/performance.md.
SPARSE_LIMIT = 20_000
#: Multiplications in one compiled function: compilers take more than proportionally longer over
#: larger ones; measured in docs/performance.md.
PART = 600
#: Entries above which a dense matrix is made column by column, not entry by entry.
ENTRIES = 2_000
#: States above which a dense matrix no longer pays and systems are solved matrix-free.
DENSE_LIMIT = 250
#: Growth of pivots that leaves half the digits.
GROWTH_LIMIT = {"float64": 1e7, "float32": 1e3}
_KRYLOV_LIMIT = 200
_KRYLOV_TOLERANCE = {"float64": 1e-10, "float32": 1e-5}


@frozen
class LinearSettings:
    """Compile-time choices of a linear solver.

    Parameters
    ----------
    rhs : Function
        Right-hand side whose Jacobian is taken.
    mass : tuple of int
        Diagonal of the mass matrix; empty for all ones.
    pair : bool
        Whether the system is that of a pair of complex shifts.
    prefix : str
        Of the names of the buffers.
    kind : {"auto", "sparse", "pivoted", "bicgstab"}
    """

    rhs: Function
    mass: tuple[int, ...] = ()
    pair: bool = False
    prefix: str = ""
    kind: str = field(default="auto", validator=one_of("auto", "sparse", "pivoted", "bicgstab"))
    precision: str = field(default="float64", validator=one_of("float32", "float64"))


Rows = tuple[dict[int, Node], ...]


@lru_cache(maxsize=64)
def jacobian_rows(rhs: Function) -> Rows:
    """Return the rows of the Jacobian of a right-hand side, ``{column: derivative}``."""
    variables = [load("u", i) for i in range(len(rhs.nodes))]
    return tuple(sparse_jacobian(rhs.nodes, variables))


@lru_cache(maxsize=64)
def time_derivative(rhs: Function) -> Function | None:
    """Return ``df/dt`` as a function, None where time does not appear."""
    rows = sparse_jacobian(rhs.nodes, [symbol("t")])
    if not any(rows):
        return None
    nodes = tuple(row.get(0, ZERO) for row in rows)
    outputs = tuple(("dt", i) for i in range(len(nodes)))
    return Function("time_derivative", ("u", "p"), ("t",), outputs, nodes)


@lru_cache(maxsize=64)
def _matrix(rhs: Function, mass: tuple[int, ...], pair: bool) -> Rows:
    """Return the rows of the system's matrix, with symbols ``c`` and ``d`` for the shifts."""
    n = len(rhs.nodes)
    rows = []
    for i, derivatives in enumerate(jacobian_rows(rhs)):
        row = {j: -node for j, node in derivatives.items()}
        if not mass or mass[i]:
            row[i] = symbol("c") + row.get(i, ZERO)
        rows.append(row)
    if not pair:
        return tuple(rows)
    d = symbol("d")
    upper, lower = [], []
    for i, row in enumerate(rows):
        left = dict(row)
        right = {n + j: node for j, node in row.items()}
        if not mass or mass[i]:
            left[n + i] = -d
            right[i] = d
        upper.append(left)
        lower.append(right)
    return (*upper, *lower)


@lru_cache(maxsize=32)
def _sparse(rhs: Function, mass: tuple[int, ...], pair: bool, limit: int) -> LU | None:
    matrix = _matrix(rhs, mass, pair)
    pivots = choose_pivots([frozenset(row) for row in matrix], limit)
    if pivots is None:
        return None
    return factorise(matrix, pivots, lambda number: load("f", number), _part(rhs))


def _part(rhs: Function) -> int:
    """Return the multiplications that one function may hold; small models stay whole."""
    return 1 << 62 if len(rhs.nodes) <= UNROLL_LIMIT else PART


@lru_cache(maxsize=32)
def _product(rhs: Function, mass: tuple[int, ...], pair: bool) -> Function:
    """Return the product of the system's matrix with ``x`` as a function that writes ``y``."""
    n = len(rhs.nodes)
    variables = [load("u", i) for i in range(n)]
    c, d = symbol("c"), symbol("d")
    nodes: list[Node] = []
    for half in range(2 if pair else 1):
        x = [load("x", half * n + i) for i in range(n)]
        other = [load("x", (1 - half) * n + i) for i in range(n)]
        for i, slope in enumerate(directional(rhs.nodes, variables, x)):
            value = -slope
            if not mass or mass[i]:
                value = c * x[i] + value
                if pair:
                    value = (-d if half == 0 else d) * other[i] + value
            nodes.append(value)
    outputs = tuple(("y", i) for i in range(len(nodes)))
    return Function("product", ("u", "p", "x"), _shifts(pair), outputs, tuple(nodes))


def _shifts(pair: bool) -> tuple[str, ...]:
    return ("t", "c", "d") if pair else ("t", "c")


class LinearSolver(CUDAFactory[LinearSettings]):
    """Factors the matrix of a step once and solves with it as often as wanted.

    Buffers: sparse: ``factors`` (the growth of pivots, then those that vary); pivoted: ``factors``
    (the dense matrix), ``interchanges``, ``solution`` and, where entries are many, ``column``;
    matrix-free: ``krylov`` and ``preconditioner``.
    """

    @property
    def size(self) -> int:
        """Number of unknowns."""
        return len(self.settings.rhs.nodes) * (2 if self.settings.pair else 1)

    @property
    def kind(self) -> str:
        """How systems are solved, with ``auto`` decided."""
        s = self.settings
        if s.kind != "auto":
            return s.kind
        if self._lu(SPARSE_LIMIT) is not None:
            return "sparse"
        return "pivoted" if self.size <= DENSE_LIMIT else "bicgstab"

    def _lu(self, limit: int) -> LU | None:
        s = self.settings
        return _sparse(s.rhs, s.mass, s.pair, limit)

    @property
    def _chosen_lu(self) -> LU:
        limit = SPARSE_LIMIT if self.settings.kind == "auto" else 1 << 62
        found = self._lu(limit)
        assert found is not None
        return found

    def name(self, buffer: str) -> str:
        """Return the name of one of this solver's buffers."""
        return self.settings.prefix + buffer

    def register_buffers(self) -> None:
        n, precision = self.size, self.settings.precision

        def keep(name: str, size: int, location: str) -> None:
            buffer_registry.register(self.name(name), self, size, location, precision)

        small = len(self.settings.rhs.nodes) <= UNROLL_LIMIT
        if self.kind == "sparse":
            keep("factors", self._chosen_lu.size, "register" if small else "local")
        elif self.kind == "pivoted":
            keep("factors", n * n, "local")
            keep("interchanges", n * n, "local")
            keep("solution", n, "local")
            if self._by_columns:
                keep("column", n, "local")
        else:
            keep("krylov", 6 * n, "local")
            keep("preconditioner", n, "local")

    def build(self) -> LinearSettings:
        return self.settings

    # statements

    def prepare(self, block: BlockBuilder, at: str, t: Node, c: Node, d: Node | None) -> None:
        """Factor the matrix at a state.

        Parameters
        ----------
        block : BlockBuilder
        at : str
            Buffer of the state.
        t, c, d : Node
            Time and shifts; `d` only for a pair.
        """
        scalars = {"t": t, "c": c} if d is None else {"t": t, "c": c, "d": d}
        arrays = {"u": (at, 0), "p": ("parameters", 0)}
        kind = self.kind
        if kind == "sparse":
            factors = (self.name("factors"), 0)
            for part in self._chosen_lu.parts:
                outputs = tuple(("g", number) for number in part)
                nodes = tuple(part.values())
                inputs = ("u", "p", "f")
                shifts, apart = _shifts(d is not None), len(self._chosen_lu.parts) > 1
                function = Function("factor", inputs, shifts, outputs, nodes, apart)
                block.evaluate(function, {**arrays, "f": factors, "g": factors}, **scalars)
        elif kind == "pivoted":
            self._assemble(block, arrays, scalars)
            self._eliminate(block)
        else:
            self._precondition(block, arrays, scalars)

    def trouble(self) -> list[Node]:
        """Return what tells that the last factorisation is not to be trusted."""
        if self.kind == "sparse":
            largest, given = (load(self.name("factors"), number) for number in (0, 1))
            limit = GROWTH_LIMIT[self.settings.precision]
            return [logical_not(compare("<=", largest, limit * given))]
        if self.kind == "bicgstab":
            return [compare("!=", load(self.name("unsolved"), 0), 0.0)]
        return []

    def solve(
        self, block: BlockBuilder, right: tuple[str, int], result: tuple[str, int],
        at: str, t: Node, c: Node, d: Node | None = None,
    ) -> None:  # fmt: skip
        """Write the solution for a right-hand side; both are (buffer, first element)."""
        kind = self.kind
        if kind == "sparse":
            parts = self._chosen_lu.solve(
                lambda i: load("b", i), lambda number: load("f", number),
                lambda i: load("x", i), _part(self.settings.rhs),
            )  # fmt: skip
            factors = (self.name("factors"), 0)
            arrays = {"f": factors, "b": right, "x": result, "y": result}
            for part in parts:
                outputs = tuple(("y", i) for i in part)
                nodes, apart = tuple(part.values()), len(parts) > 1
                function = Function("solve", ("f", "b", "x"), (), outputs, nodes, apart)
                block.evaluate(function, arrays)
        elif kind == "pivoted":
            self._substitute(block, right, result)
        else:
            self._iterate(block, right, result, at, t, c, d)

    # dense, pivoted

    @property
    def _by_columns(self) -> bool:
        """Whether the matrix has too many entries to write each of them out."""
        s = self.settings
        return sum(map(len, _matrix(s.rhs, s.mass, s.pair))) > ENTRIES

    def _assemble(
        self, block: BlockBuilder, arrays: dict[str, tuple[str, int]], scalars: dict[str, Node]
    ) -> None:
        n, s = self.size, self.settings
        if self._by_columns:
            seed, column = self.name("solution"), self.name("column")
            product = _product(s.rhs, s.mass, s.pair)
            block.sweep(n, {seed: const(0.0)})
            with block.nest("j", 0, n):
                block.put((seed, 0, (("j", 1),), const(1.0)))
                block.evaluate(product, {**arrays, "x": (seed, 0), "y": (column, 0)}, **scalars)
                with block.nest("i", 0, n):
                    entry = load(column, 0, (("i", 1),))
                    block.put((self.name("factors"), 0, (("i", n), ("j", 1)), entry))
                block.put((seed, 0, (("j", 1),), const(0.0)))
            return
        rows = _matrix(s.rhs, s.mass, s.pair)
        block.sweep(n * n, [(self.name("factors"), 0, 1, const(0.0))])
        entries = [(i * n + j, node) for i, row in enumerate(rows) for j, node in row.items()]
        arrays = {**arrays, "m": (self.name("factors"), 0)}
        for first in range(0, len(entries), PART):
            part = entries[first : first + PART]
            outputs = tuple(("m", position) for position, _ in part)
            nodes = tuple(node for _, node in part)
            function = Function("matrix", ("u", "p"), _shifts(s.pair), outputs, nodes)
            block.evaluate(function, arrays, **scalars)

    def _eliminate(self, block: BlockBuilder) -> None:
        """Gaussian elimination with pairwise pivoting.

        Each row is eliminated by the pivot row, the larger of the two going first, so that no
        multiplier exceeds one (D. C. Sorensen, Analysis of pairwise pivoting in Gaussian
        elimination, IEEE Trans. Comput. C-34, 274-278, 1985). Unlike partial pivoting it needs
        no index that differs from lane to lane.
        """
        n, factors, swaps = self.size, self.name("factors"), self.name("interchanges")
        top, low = (("k", n + 1),), (("i", n), ("k", 1))
        over, under = (("k", n), ("j", 1)), (("i", n), ("j", 1))
        with block.nest("k", 0, n), block.nest("i", ("k", 1), n):
            a, b = load(factors, 0, top), load(factors, 0, low)
            swap = block.let("swap", compare(">", fabs(b), fabs(a)))
            large = block.let("large", where(swap, b, a))
            ratio = where(compare("==", large, 0.0), const(0.0), where(swap, a, b) / large)
            ratio = block.let("ratio", ratio)
            block.put(
                (factors, 0, top, large),
                (factors, 0, low, ratio),
                (swaps, 0, low, where(swap, const(1.0), const(0.0))),
            )
            with block.nest("j", ("k", 1), n):
                a, b = load(factors, 0, over), load(factors, 0, under)
                first = where(swap, b, a)
                block.put(
                    (factors, 0, over, first),
                    (factors, 0, under, where(swap, a, b) - ratio * first),
                )
        with block.nest("k", 0, n):
            block.put((factors, 0, top, 1.0 / load(factors, 0, top)))

    def _substitute(
        self, block: BlockBuilder, right: tuple[str, int], result: tuple[str, int]
    ) -> None:
        n, factors, swaps = self.size, self.name("factors"), self.name("interchanges")
        x = self.name("solution")
        block.sweep(n, {x: load(*right, 1)})
        low = (("i", n), ("k", 1))
        with block.nest("k", 0, n), block.nest("i", ("k", 1), n):
            swap = compare("!=", load(swaps, 0, low), 0.0)
            a, b = load(x, 0, (("k", 1),)), load(x, 0, (("i", 1),))
            first = where(swap, b, a)
            block.put(
                (x, 0, (("k", 1),), first),
                (x, 0, (("i", 1),), where(swap, a, b) - load(factors, 0, low) * first),
            )
        # Backwards: counters count from the end.
        last = n - 1
        with block.nest("k", 0, n):
            block.assign([("rest", 0)], [load(x, last, (("k", -1),))])
            with block.nest("j", 0, ("k", 0)):
                entry = load(factors, last * n + last, (("k", -n), ("j", -1)))
                term = entry * load(x, last, (("j", -1),))
                block.assign([("rest", 0)], [load("rest", 0) - term])
            reciprocal = load(factors, last * n + last, (("k", -n - 1),))
            block.put((x, last, (("k", -1),), load("rest", 0) * reciprocal))
        block.sweep(n, [(*result, 1, load(x, 0, 1))])

    # matrix-free

    def _precondition(
        self, block: BlockBuilder, arrays: dict[str, tuple[str, int]], scalars: dict[str, Node]
    ) -> None:
        s = self.settings
        rows = _matrix(s.rhs, s.mass, s.pair)
        nodes = tuple(1.0 / row[i] if i in row else const(1.0) for i, row in enumerate(rows))
        outputs = tuple(("q", i) for i in range(len(nodes)))
        function = Function("diagonal", ("u", "p"), _shifts(s.pair), outputs, nodes)
        block.evaluate(function, {**arrays, "q": (self.name("preconditioner"), 0)}, **scalars)
        block.assign([(self.name("unsolved"), 0)], [const(0.0)])

    def _iterate(
        self, block: BlockBuilder, right: tuple[str, int], result: tuple[str, int],
        at: str, t: Node, c: Node, d: Node | None,
    ) -> None:  # fmt: skip
        """BiCGSTAB, preconditioned from the right by the diagonal.

        H. A. van der Vorst, SIAM J. Sci. Stat. Comput. 13, 631-644, 1992. The product with the
        matrix comes from the exact Jacobian; no matrix is stored.
        """
        s, n, krylov = self.settings, self.size, self.name("krylov")
        function = _product(s.rhs, s.mass, s.pair)
        scalars = {"t": t, "c": c} if d is None else {"t": t, "c": c, "d": d}
        # Vectors: r, r0, p, v (product with p), hat (preconditioned), w (product with s).
        r, r0, p, v, hat, w = (n * i for i in range(6))

        def of(row: int) -> Node:
            return load(krylov, row, 1)

        def multiply(row: int) -> None:
            arrays = {"u": (at, 0), "p": ("parameters", 0), "x": (krylov, hat), "y": (krylov, row)}
            block.evaluate(function, arrays, **scalars)

        def dot(name: str, a: Node, b: Node) -> Node:
            block.assign([(name, 0)], [const(0.0)])
            block.sweep(n, [(name, 0, 0, a * b + load(name, 0))])
            return load(name, 0)

        def safe(a: Node, b: Node) -> Node:
            return where(compare("==", b, 0.0), const(0.0), a / b)

        x, start = result
        zero = const(0.0)
        block.sweep(n, [(krylov, r0, 1, load(*right, 1))])
        block.sweep(
            n,
            [
                (krylov, r, 1, of(r0)), (krylov, p, 1, of(r0)),
                (krylov, v, 1, zero), (x, start, 1, zero),
            ],
        )  # fmt: skip
        square = block.let("goal", dot("rho", of(r), of(r)))
        goal = _KRYLOV_TOLERANCE[s.precision] ** 2
        block.assign([("left", 0)], [square])
        inverse = load(self.name("preconditioner"), 0, 1)
        going = compare(">", load("left", 0), goal * square)

        with block.repeat(lambda: going, _KRYLOV_LIMIT):
            active = block.let("going", going)
            block.sweep(n, [(krylov, hat, 1, inverse * of(p))])
            multiply(v)
            alpha = block.let("alpha", safe(load("rho", 0), dot("r0v", of(r0), of(v))))
            block.sweep(
                n,
                [
                    (krylov, r, 1, where(active, of(r) - alpha * of(v), of(r))),
                    (x, start, 1, where(active, load(x, start, 1) + alpha * of(hat),
                                        load(x, start, 1))),
                ],
            )  # fmt: skip
            block.sweep(n, [(krylov, hat, 1, inverse * of(r))])
            multiply(w)
            omega = safe(dot("ws", of(w), of(r)), dot("ww", of(w), of(w)))
            omega = block.let("omega", omega)
            block.sweep(
                n,
                [
                    (krylov, r, 1, where(active, of(r) - omega * of(w), of(r))),
                    (x, start, 1, where(active, load(x, start, 1) + omega * of(hat),
                                        load(x, start, 1))),
                ],
            )  # fmt: skip
            new = dot("new_rho", of(r0), of(r))
            beta = safe(new, load("rho", 0)) * safe(alpha, omega)
            beta = block.let("beta", beta)
            ahead = of(r) + beta * (of(p) - omega * of(v))
            block.sweep(n, [(krylov, p, 1, where(active, ahead, of(p)))])
            rest = dot("rest_square", of(r), of(r))
            block.assign(
                [("left", 0), ("rho", 0)],
                [where(active, rest, load("left", 0)), where(active, new, load("rho", 0))],
            )
        unsolved = logical_or(going, compare("!=", load(self.name("unsolved"), 0), 0.0))
        unsolved = logical_or(unsolved, logical_not(compare("<", load("left", 0), 1e30)))
        unsolved = logical_and(unsolved, compare(">", sqrt(square), 0.0))
        block.assign([(self.name("unsolved"), 0)], [where(unsolved, const(1.0), const(0.0))])
