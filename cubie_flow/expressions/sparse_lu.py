"""Static sparse LU: a matrix of expressions becomes expressions of its factors.

The pattern is known when the kernel is built. Pivots are therefore chosen once, for little fill,
and the factorisation is straight-line code without an index at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from heapq import heapify, heappop, heappush

from attrs import frozen

from cubie_flow.errors import FlowError
from cubie_flow.expressions.graph import ONE, ZERO, Node, const, fabs, is_const, maximum

Pivots = tuple[tuple[int, int], ...]
Entries = tuple[tuple[int, "int | Node"], ...]


@frozen
class LU:
    """Factors of a matrix as expressions, in parts that are small enough to compile quickly.

    Factors have numbers, except literals; equal factors share a number. The expressions of a part
    read the factors of earlier parts through ``read(number)``. Numbers 0 and 1 are the largest
    magnitude in the upper factor and in the matrix; their ratio is the growth of pivots (Golub and
    Van Loan, Matrix Computations, section 3.4).

    Attributes
    ----------
    pivots : tuple of (int, int)
        Row and column of every pivot, in order of elimination.
    parts : tuple of dict of int to Node
        Value of every factor, by its number.
    lower, upper : tuple of tuple of (int, int or Node)
        For every pivot, earlier pivots with their multipliers, and columns right of it with their
        values. Each multiplier and value is the number of a factor or a literal.
    reciprocals : tuple of (int or Node)
        One over every pivot.
    """

    pivots: Pivots
    parts: tuple[dict[int, Node], ...]
    lower: tuple[Entries, ...]
    upper: tuple[Entries, ...]
    reciprocals: tuple[int | Node, ...]

    @property
    def size(self) -> int:
        """Count of numbers, including the two of the growth."""
        return 1 + max(number for part in self.parts for number in part)

    def solve(
        self, right: Callable[[int], Node], read: Callable[[int], Node],
        value: Callable[[int], Node], part: int,
    ) -> list[dict[int, Node]]:  # fmt: skip
        """Return the solution as parts of expressions.

        Parameters
        ----------
        right : callable
            ``right(i)``: element of the right-hand side.
        read : callable
            ``read(number)``: a factor.
        value : callable
            ``value(i)``: element of the solution after the earlier parts.
        part : int
            Multiplications per part.

        Returns
        -------
        list of dict of int to Node
            Elements of the solution that each part writes; the last value is the solution.
        """

        def factor(entry: int | Node) -> Node:
            return entry if isinstance(entry, Node) else read(entry)

        parts: list[dict[int, Node]] = [{}]
        work = 0

        def begin(cost: int) -> None:
            """Begin a new part if the next element is too much for this one."""
            nonlocal work
            if work + cost > part and parts[-1]:
                parts.append({})
                work = 0
            work += cost

        def known(column: int) -> Node:
            return parts[-1].get(column, value(column))

        # Forward substitution writes each result to its unknown, then backward substitution.
        for (row, column), line in zip(self.pivots, self.lower, strict=True):
            begin(len(line) + 1)
            total = right(row)
            for earlier, entry in line:
                total = total - factor(entry) * known(self.pivots[earlier][1])
            parts[-1][column] = total
        for k in reversed(range(len(self.pivots))):
            column = self.pivots[k][1]
            begin(len(self.upper[k]) + 1)
            total = known(column)
            for j, entry in self.upper[k]:
                total = total - factor(entry) * known(j)
            parts[-1][column] = total * factor(self.reciprocals[k])
        return parts


def choose_pivots(pattern: Sequence[frozenset[int]], limit: int) -> Pivots | None:
    """Return pivots that make little fill, or None if the work exceeds `limit` multiplications.

    Markowitz's rule takes the entry with the least ``(row count - 1) * (column count - 1)`` (H. M.
    Markowitz, Management Science 3, 255-269, 1957). Diagonal entries come first, because the
    step size makes them large; others are taken where the diagonal is structurally empty.

    Raises
    ------
    FlowError
        If the matrix is structurally singular.
    """
    rows = {i: set(columns) for i, columns in enumerate(pattern)}
    columns: dict[int, set[int]] = {j: set() for j in range(len(pattern))}
    for i, row in rows.items():
        for j in row:
            columns[j].add(i)
    pivots: list[tuple[int, int]] = []
    work = 0
    while rows:
        i, j = _cheapest_pivot(rows, columns)
        work += _eliminate(rows, columns, i, j)
        if work > limit:
            return None
        pivots.append((i, j))
    return tuple(pivots)


def _cheapest_pivot(
    rows: Mapping[int, set[int]], columns: Mapping[int, set[int]]
) -> tuple[int, int]:
    best: tuple[int, int, int, int] | None = None
    for i, row in rows.items():
        for j in [i] if i in row else list(row) if i not in columns else []:
            key = (int(i != j), (len(row) - 1) * (len(columns[j]) - 1), i, j)
            if best is None or key < best:
                best = key
    if best is not None:
        return best[2:]
    # The diagonal entry of every remaining row is structurally zero: take any entry.
    entries = [(len(row), i, j) for i, row in rows.items() for j in row]
    if not entries:
        raise FlowError("the Jacobian is structurally singular: no unique step exists")
    return min(entries)[1:]


def _eliminate(rows: dict[int, set[int]], columns: dict[int, set[int]], i: int, j: int) -> int:
    """Remove the row and column of a pivot, add the fill, and return the multiplications."""
    row, column = rows.pop(i), columns.pop(j)
    column.discard(i)
    row.discard(j)
    for other in row:
        columns[other].discard(i)
    for below in column:
        rows[below].discard(j)
        fill = row - rows[below]
        rows[below] |= fill
        for new in fill:
            columns[new].add(below)
    return len(column) * (len(row) + 1)


def factorise(
    matrix: Sequence[Mapping[int, Node]], pivots: Pivots, read: Callable[[int], Node], part: int
) -> LU:
    """Return the LU factors of a matrix given by rows ``{column: value}``.

    Parameters
    ----------
    matrix : sequence of mapping
    pivots : tuple of (int, int)
        From `choose_pivots`.
    read : callable
        ``read(number)``: a factor that an earlier part has written.
    part : int
        Multiplications per part.
    """
    return _Factorisation(pivots, read, part).of(matrix)


class _Factorisation:
    """Factors of one matrix, row by row."""

    def __init__(self, pivots: Pivots, read: Callable[[int], Node], part: int) -> None:
        self.pivots = pivots
        self.read = read
        self.part = part
        self.step_of_column = {column: k for k, (_, column) in enumerate(pivots)}
        self.numbers: dict[Node, int] = {}
        self.parts: list[dict[int, Node]] = [{}]
        self.work = 0
        self.count = 2
        #: Magnitudes in the upper factor and in the matrix, of the part at hand.
        self.magnitudes: tuple[list[Node], list[Node]] = ([], [])
        self.lower: list[Entries] = []
        self.upper: list[Entries] = []
        self.reciprocals: list[int | Node] = []

    def of(self, matrix: Sequence[Mapping[int, Node]]) -> LU:
        """Return the factors."""
        for row_number, pivot_column in self.pivots:
            row = {j: node for j, node in matrix[row_number].items() if node is not ZERO}
            self.magnitudes[1].extend(row.values())
            line = self._reduce(row)
            pivot = row.pop(pivot_column, ZERO)
            self.magnitudes[0].extend([pivot, *row.values()])
            self.lower.append(line)
            self.reciprocals.append(self._store(ONE / pivot))
            self.upper.append(tuple((j, self._store(node)) for j, node in sorted(row.items())))
            if self.work > self.part:
                self._end_part()
                self.parts.append({})
                self.work = 0
        self._end_part()
        return LU(
            self.pivots,
            tuple(self.parts),
            tuple(self.lower),
            tuple(self.upper),
            tuple(self.reciprocals),
        )

    def _reduce(self, row: dict[int, Node]) -> Entries:
        """Eliminate the columns of earlier pivots from a row; return their multipliers."""
        line: list[tuple[int, int | Node]] = []
        # Earlier pivots in order; eliminating one may fill in the column of a later one.
        waiting = [self.step_of_column[j] for j in row if self.step_of_column[j] < len(self.lower)]
        heapify(waiting)
        queued = set(waiting)
        while waiting:
            k = heappop(waiting)
            multiplier = row.pop(self.pivots[k][1]) * self._value(self.reciprocals[k])
            entry = self._store(multiplier)
            line.append((k, entry))
            for j, above in self.upper[k]:
                row[j] = row.get(j, ZERO) - self._value(entry) * self._value(above)
                earlier = self.step_of_column[j]
                if earlier < len(self.lower) and earlier not in queued:
                    queued.add(earlier)
                    heappush(waiting, earlier)
            self.work += len(self.upper[k]) + 1
        return tuple(line)

    def _end_part(self) -> None:
        """Write the largest magnitudes up to the end of a part."""
        for number, nodes in enumerate(self.magnitudes):
            before = [self.read(number)] if len(self.parts) > 1 else []
            self.parts[-1][number] = _largest([*before, *nodes])
            nodes.clear()

    def _store(self, node: Node) -> int | Node:
        """Return the number of a factor, written in the part at hand if it is new."""
        if is_const(node):
            return node
        if node not in self.numbers:
            self.numbers[node] = self.count
            self.parts[-1][self.count] = node
            self.count += 1
        return self.numbers[node]

    def _value(self, entry: int | Node) -> Node:
        if isinstance(entry, Node):
            return entry
        return self.parts[-1][entry] if entry in self.parts[-1] else self.read(entry)


def _largest(nodes: Sequence[Node]) -> Node:
    """Return the largest magnitude, as a tree: it has fewer dependent steps than a chain."""
    sizes = [fabs(node) for node in dict.fromkeys(nodes)] or [const(0.0)]
    while len(sizes) > 1:
        pairs = [maximum(a, b) for a, b in zip(sizes[::2], sizes[1::2], strict=False)]
        sizes = pairs + sizes[2 * len(pairs) :]
    return sizes[0]
