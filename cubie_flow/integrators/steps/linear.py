"""The linear systems of implicit steps, as statements of a block.

They are ``(c*M - J) x = b`` with the mass matrix M, the exact Jacobian J of the model and a shift c
of the magnitude of one over the step. A pair of complex conjugate shifts gives the real system of
twice the size ``[[alpha*M - J, -beta*M], [beta*M, alpha*M - J]]``.
"""

from __future__ import annotations

from functools import lru_cache

from attrs import field, frozen

from cubie_flow.allowed_values import LINEAR_SOLVERS, PRECISIONS
from cubie_flow.errors import one_of
from cubie_flow.expressions.block import UNROLL_LIMIT, BlockBuilder, Function
from cubie_flow.expressions.derivatives import directional, sparse_jacobian
from cubie_flow.expressions.graph import (
    FALSE,
    TRUE,
    ZERO,
    Node,
    compare,
    const,
    fabs,
    load,
    logical_and,
    logical_not,
    logical_or,
    maximum,
    minimum,
    symbol,
    where,
)
from cubie_flow.expressions.sparse_lu import LU, choose_pivots, factorise
from cubie_flow.expressions.traversal import topological
from cubie_flow.integrators.controllers import EPSILON, SETTINGS, approximate_reciprocal
from cubie_flow.memory import CUDAFactory, buffer_registry

#: Largest number of multiplications of a sparse factorisation; measured in docs/lab-book.md.
SPARSE_LIMIT = 20_000
#: Largest number of multiplications in one compiled function. The time of compilers grows faster
#: than the size of a function; measured in docs/lab-book.md.
PART = 600
#: Number of entries above which a dense matrix is assembled column by column, not entry by entry.
ENTRIES = 2_000
#: Number of unknowns above which systems are solved matrix-free instead of with a dense matrix.
DENSE_LIMIT = 250
#: Growth of pivots at which half of the digits are lost.
GROWTH_LIMIT = {"float64": 1e7, "float32": 1e3}
# Matrix-free solver: largest numbers of iterations per pass and of passes; reduction of the
# residual by a pass; largest and smallest allowed error of the solution, as parts of the tolerance;
# and the square above which a residual is not finite.
_KRYLOV_LIMIT, _KRYLOV_PASSES = 200, 6
_KRYLOV_TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
_KRYLOV_ENOUGH, _KRYLOV_LEAST = 1e-2, 1e-9
_KRYLOV_LARGEST = {"float64": 1e300, "float32": 1e38}
#: Rows of the buffer `krylov`: the residual is the first; the product with the matrix and the
#: change of the solution are the last.
PRODUCT, CHANGE, KRYLOV_ROWS = 5, 6, 7


@frozen
class LinearSettings:
    """Compile-time choices of a linear solver.

    Parameters
    ----------
    rhs : Function
        Right-hand side of the model; its Jacobian is computed from it.
    mass : tuple of int
        Diagonal of the mass matrix; empty for all ones.
    pair : bool
        Whether the system is that of a pair of complex shifts.
    prefix : str
        Prefix of the names of the buffers.
    kind : {"auto", "sparse", "pivoted", "bicgstab"}
        Method of solution; ``auto`` chooses by the size of the system.
    precision : {"float32", "float64"}
    """

    rhs: Function
    mass: tuple[int, ...] = ()
    pair: bool = False
    prefix: str = ""
    kind: str = field(default="auto", validator=one_of(*LINEAR_SOLVERS))
    precision: str = field(default="float64", validator=one_of(*PRECISIONS))


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


def reads_past(rhs: Function) -> bool:
    """Return whether a right-hand side has delayed values, which its derivatives may read."""
    return any(node.op == "past" for node in topological(rhs.nodes))


def derivative_arrays(rhs: Function, at: str) -> dict[str, tuple[str, int]]:
    """Return the arrays of the derivatives of a right-hand side at a state."""
    arrays = {"u": (at, 0), "p": ("parameters", 0)}
    return {**arrays, "d": ("delayed_base", 0)} if reads_past(rhs) else arrays


@lru_cache(maxsize=64)
def _matrix(rhs: Function, mass: tuple[int, ...], pair: bool) -> Rows:
    """Return the rows of the matrix of the system, with symbols ``c`` and ``d`` for the shifts."""
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
    """Return the sparse factorisation, None if it takes more than `limit` multiplications."""
    matrix = _matrix(rhs, mass, pair)
    pivots = choose_pivots([frozenset(row) for row in matrix], limit)
    if pivots is None:
        return None
    return factorise(matrix, pivots, lambda number: load("f", number), _part(rhs))


def _part(rhs: Function) -> int:
    """Return the largest number of multiplications in one function; small models are not split."""
    return 1 << 62 if len(rhs.nodes) <= UNROLL_LIMIT else PART


@lru_cache(maxsize=32)
def _product(rhs: Function, mass: tuple[int, ...], pair: bool) -> Function:
    """Return the function that writes the product ``y`` of the matrix with ``x``."""
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
    """Factors the matrix of a step once, and solves any number of systems with it.

    Buffers of the sparse solver: ``factors`` (the growth of pivots, then the factors that vary); of
    the pivoted solver: ``factors`` (the dense matrix), ``interchanges``, ``solution`` and, for many
    entries, ``column``; of the matrix-free solver: ``krylov`` and ``preconditioner``.
    """

    @property
    def size(self) -> int:
        """Number of unknowns."""
        return len(self.settings.rhs.nodes) * (2 if self.settings.pair else 1)

    @property
    def kind(self) -> str:
        """Method of solution; the result of the choice for ``auto``."""
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
        lu = self._lu(limit)
        assert lu is not None
        return lu

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
            keep("krylov", KRYLOV_ROWS * n, "local")
            keep("preconditioner", 2 * n, "local")

    def build(self) -> LinearSettings:
        return self.settings

    # statements

    def prepare(self, block: BlockBuilder, at: str, t: Node, c: Node, d: Node | None) -> None:
        """Write the factorisation of the matrix at a state.

        Parameters
        ----------
        block : BlockBuilder
        at : str
            Buffer of the state.
        t, c, d : Node
            Time and shifts; `d` is None without a pair.
        """
        scalars = {"t": t, "c": c} if d is None else {"t": t, "c": c, "d": d}
        arrays = derivative_arrays(self.settings.rhs, at)
        kind = self.kind
        if kind == "sparse":
            self._factorise(block, arrays, scalars)
        elif kind == "pivoted":
            self._assemble(block, arrays, scalars)
            self._eliminate(block)
        else:
            self._precondition(block, at, arrays, scalars)

    def _factorise(
        self, block: BlockBuilder, arrays: dict[str, tuple[str, int]], scalars: dict[str, Node]
    ) -> None:
        """Write the sparse factorisation."""
        factors, parts = (self.name("factors"), 0), self._chosen_lu.parts
        for part in parts:
            outputs = tuple(("g", number) for number in part)
            nodes, apart = tuple(part.values()), len(parts) > 1
            function = Function("factor", ("u", "p", "f"), tuple(scalars), outputs, nodes, apart)
            block.evaluate(function, {**arrays, "f": factors, "g": factors}, **scalars)

    def unconverged(self) -> list[Node]:
        """Return truths: whether the last factorisation or solution is not accurate."""
        if self.kind == "sparse":
            largest, original = (load(self.name("factors"), number) for number in (0, 1))
            limit = GROWTH_LIMIT[self.settings.precision]
            return [logical_not(compare("<=", largest, limit * original))]
        if self.kind == "bicgstab":
            return [compare("!=", load(self.name("unsolved"), 0), 0.0)]
        return []

    def solve(
        self, block: BlockBuilder, right: tuple[str, int], result: tuple[str, int],
        at: str, t: Node, c: Node, d: Node | None = None,
    ) -> None:  # fmt: skip
        """Write the solution of the system for a right-hand side.

        Parameters
        ----------
        block : BlockBuilder
        right, result : tuple of (str, int)
            Buffer and first element of the right-hand side and of the solution.
        at : str
            Buffer of the state.
        t, c, d : Node
            As in `prepare`.
        """
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
        """Write the dense matrix."""
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
        """Write the Gaussian elimination with pairwise pivoting.

        Each row is eliminated by the pivot row. The row with the larger entry becomes the pivot
        row, so that no multiplier exceeds one (D. C. Sorensen, Analysis of pairwise pivoting in
        Gaussian elimination, IEEE Trans. Comput. C-34, 274-278, 1985). Unlike partial pivoting it
        needs no index that differs between lanes.
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
        """Write the forward and backward substitution of the pivoted solver."""
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
        # In the backward substitution the counters count from the end.
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

    # the matrix-free solver

    def _precondition(
        self, block: BlockBuilder, at: str, arrays: dict[str, tuple[str, int]],
        scalars: dict[str, Node],
    ) -> None:  # fmt: skip
        """Write the inverse of the diagonal times the tolerances, then one over the tolerances."""
        s, n = self.settings, self.size
        rows = _matrix(s.rhs, s.mass, s.pair)
        nodes = tuple(1.0 / row[i] if i in row else const(1.0) for i, row in enumerate(rows))
        outputs = tuple(("q", i) for i in range(len(nodes)))
        function = Function("diagonal", ("u", "p"), _shifts(s.pair), outputs, nodes)
        buffer, states = self.name("preconditioner"), len(s.rhs.nodes)
        block.evaluate(function, {**arrays, "q": (buffer, 0)}, **scalars)
        size = load("settings", SETTINGS, 1) * fabs(load(at, 0, 1))
        scale = size + load("settings", SETTINGS + states, 1)
        fastest = (self.name("fastest"), 0)
        block.assign([fastest], [fabs(load(buffer, 0))])
        block.sweep(n, [(*fastest, 0, minimum(fabs(load(buffer, 0, 1)), load(*fastest)))])
        for first in range(0, n, states):
            diagonal = (buffer, first, 1, load(buffer, first, 1) * scale)
            weight = (buffer, n + first, 1, approximate_reciprocal(scale, s.precision))
            block.sweep(states, [diagonal, weight])
        block.assign([(self.name("unsolved"), 0)], [const(0.0)])

    def _iterate(
        self, block: BlockBuilder, right: tuple[str, int], result: tuple[str, int],
        at: str, t: Node, c: Node, d: Node | None,
    ) -> None:  # fmt: skip
        """Solve by passes of BiCGSTAB, each from the true residual; all in units of tolerances.

        The residual that BiCGSTAB updates drifts away from the true one, and slow components hide
        in it: their error is the residual times ``1/c``. A solution is therefore accepted in two
        cases. Either the true residual times ``1/c`` is a small part of the tolerance, the smaller
        the longer the step is compared with the fastest process. Or rounding limits the residual,
        and the last pass changed the solution by little. Otherwise the system is not solved.
        """
        n, (x, first) = self.size, result
        buffer, krylov = self.name("preconditioner"), self.name("krylov")
        weight, r = load(buffer, n, 1), load(krylov, 0, 1)
        change, product = load(krylov, CHANGE * n, 1), load(krylov, PRODUCT * n, 1)
        limits = self._error_limits(block, c)
        block.sweep(n, [(krylov, 0, 1, weight * load(*right, 1)), (x, first, 1, const(0.0))])
        refining, lost = (load(name, 0, kind="bool") for name in ("refining", "lost"))
        block.assign([("refining", 0), ("lost", 0)], [TRUE, FALSE])
        _dot(block, "left", n, r, r)
        with block.repeat(lambda: refining, _KRYLOV_PASSES):
            before = block.let("left_before", load("left", 0))
            converged = self._bicgstab(block, refining, before, at, t, c, d)
            moved = where(refining, load(x, first, 1) + change, load(x, first, 1))
            block.sweep(n, [(x, first, 1, moved)])
            self._multiply(block, (x, first), (krylov, PRODUCT * n), at, t, c, d)
            rest = weight * (load(*right, 1) - product)
            block.sweep(n, [(krylov, 0, 1, where(refining, rest, r))])
            changed = _dot(block, "changed", n, weight * change, weight * change)
            self._check_solution(block, converged, changed, limits)
        unsolved = logical_or(logical_or(refining, lost), *self.unconverged())
        block.assign([(self.name("unsolved"), 0)], [where(unsolved, const(1.0), const(0.0))])

    def _error_limits(self, block: BlockBuilder, c: Node) -> tuple[Node, Node]:
        """Return the largest change by a last pass, and the largest residual, per state."""
        rounding = 16.0 * EPSILON[self.settings.precision] / load("settings", SETTINGS)
        enough = block.let("enough", maximum(rounding, const(_KRYLOV_ENOUGH)))
        slower = block.let("slower", c * load(self.name("fastest"), 0))
        allowed = minimum(const(_KRYLOV_ENOUGH), 0.1 * slower * slower)
        hidden = block.let("hidden", c * maximum(allowed, const(_KRYLOV_LEAST)))
        return enough, hidden

    def _check_solution(
        self, block: BlockBuilder, converged: Node, changed: Node, limits: tuple[Node, Node]
    ) -> None:
        """Write which lanes need another pass (``refining``), and which are not finite (``lost``).

        Parameters
        ----------
        block : BlockBuilder
        converged : Node
            Whether the pass reduced the residual enough.
        changed : Node
            Square of the change of the solution by the pass.
        limits : tuple of Node
            See `_error_limits`.
        """
        n, (enough, hidden) = self.size, limits
        refining, lost = (load(name, 0, kind="bool") for name in ("refining", "lost"))
        r = load(self.name("krylov"), 0, 1)
        carried = block.let("left_carried", load("left", 0))
        left = _dot(block, "left", n, r, r)
        harmless = compare("<=", left, n * hidden * hidden)
        # Rounding has an effect where the residuals differ; before that, another pass helps.
        rounded = logical_and(converged, compare(">", left, 4.0 * carried))
        settled = logical_and(rounded, compare("<=", changed, n * enough * enough))
        done = block.let("solved", logical_or(harmless, settled))
        finite = compare("<", left, _KRYLOV_LARGEST[self.settings.precision])
        more = logical_and(finite, logical_not(done))
        worse = logical_not(logical_or(finite, done))
        block.assign(
            [("refining", 0), ("lost", 0)],
            [logical_and(refining, more), logical_or(lost, logical_and(refining, worse))],
        )

    def _multiply(
        self, block: BlockBuilder, vector: tuple[str, int], product: tuple[str, int],
        at: str, t: Node, c: Node, d: Node | None,
    ) -> None:  # fmt: skip
        """Write the product of the matrix with a vector, from directional derivatives.

        Parameters
        ----------
        block : BlockBuilder
        vector, product : tuple of (str, int)
            Buffer and first element of the vector and of the product.
        at, t, c, d
            As in `solve`.
        """
        s = self.settings
        scalars = {"t": t, "c": c} if d is None else {"t": t, "c": c, "d": d}
        arrays = {**derivative_arrays(s.rhs, at), "x": vector, "y": product}
        block.evaluate(_product(s.rhs, s.mass, s.pair), arrays, **scalars)

    def _bicgstab(
        self, block: BlockBuilder, wanted: Node, before: Node,
        at: str, t: Node, c: Node, d: Node | None,
    ) -> Node:  # fmt: skip
        """Write one pass of BiCGSTAB; return whether it reduced the residual enough.

        Source: H. A. van der Vorst, SIAM J. Sci. Stat. Comput. 13, 631-644, 1992. The diagonal
        preconditions the system from the right.

        Parameters
        ----------
        block : BlockBuilder
        wanted : Node
            Lanes that iterate.
        before : Node
            Square of the residual at the start.
        at, t, c, d
            As in `solve`.
        """
        n, krylov, buffer = self.size, self.name("krylov"), self.name("preconditioner")
        # Vectors: the residual, the initial residual, the search direction, its product with the
        # matrix, and a preconditioned vector.
        r, r0, p, v, hat = (n * i for i in range(5))
        w, change = PRODUCT * n, CHANGE * n
        inverse, weight = load(buffer, 0, 1), load(buffer, n, 1)

        def of(row: int) -> Node:
            return load(krylov, row, 1)

        def multiply(source: int, target: int) -> None:
            block.sweep(n, [(krylov, hat, 1, inverse * of(source))])
            self._multiply(block, (krylov, hat), (krylov, target), at, t, c, d)
            block.sweep(n, [(krylov, target, 1, weight * of(target))])

        def step(length: Node, product: int) -> None:
            """Move by `length` along the preconditioned vector."""
            moves = [(r, of(r) - length * of(product)), (change, of(change) + length * of(hat))]
            block.sweep(n, [(krylov, i, 1, where(active, new, of(i))) for i, new in moves])

        starts = [(r0, of(r)), (p, of(r)), (v, const(0.0)), (change, const(0.0))]
        block.sweep(n, [(krylov, i, 1, value) for i, value in starts])
        block.assign([("rho", 0)], [before])
        goal = block.let("goal", _KRYLOV_TOLERANCE[self.settings.precision] ** 2 * before)
        going = logical_and(wanted, compare(">", load("left", 0), goal))
        with block.repeat(lambda: going, _KRYLOV_LIMIT):
            active = block.let("going", going)
            multiply(p, v)
            alpha = _ratio(load("rho", 0), _dot(block, "r0v", n, of(r0), of(v)))
            alpha = block.let("alpha", alpha)
            step(alpha, v)
            multiply(r, w)
            ww = _dot(block, "ww", n, of(w), of(w))
            omega = block.let("omega", _ratio(_dot(block, "ws", n, of(w), of(r)), ww))
            step(omega, w)
            new = _dot(block, "new_rho", n, of(r0), of(r))
            beta = block.let("beta", _ratio(new, load("rho", 0)) * _ratio(alpha, omega))
            ahead = of(r) + beta * (of(p) - omega * of(v))
            block.sweep(n, [(krylov, p, 1, where(active, ahead, of(p)))])
            rest = _dot(block, "rest_square", n, of(r), of(r))
            block.assign(
                [("left", 0), ("rho", 0)],
                [where(active, rest, load("left", 0)), where(active, new, load("rho", 0))],
            )
        return block.let("converged", compare("<=", load("left", 0), goal))


def _dot(block: BlockBuilder, name: str, n: int, a: Node, b: Node) -> Node:
    """Write the scalar product of two vectors to the value `name`, and return it."""
    block.assign([(name, 0)], [const(0.0)])
    block.sweep(n, [(name, 0, 0, a * b + load(name, 0))])
    return load(name, 0)


def _ratio(a: Node, b: Node) -> Node:
    """Return ``a / b``, or 0 where `b` is 0."""
    return where(compare("==", b, 0.0), const(0.0), a / b)
