"""Static sparse LU: a matrix of expressions becomes expressions of its factors.

The pattern is known when the kernel is built, so pivots are chosen once, for little fill, and
the factorisation is straight-line code without a single index at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from heapq import heapify, heappop, heappush

from attrs import frozen

from cubie_flow.errors import FlowError
from cubie_flow.expressions.graph import ONE, ZERO, Node, const, fabs, is_const, maximum

Pivots = tuple[tuple[int, int], ...]


@frozen
class LU:
    """Factors of a matrix as expressions, in parts small enough to be compiled quickly.

    The factors are numbered: those that are literals are not, equal ones share a number. The
    expressions of a part read the factors of earlier parts through ``read(number)``. Numbers 0
    and 1 are the largest magnitude in the upper factor and in the matrix, whose ratio is the
    growth of pivots (Golub and Van Loan, Matrix Computations, section 3.4).

    Attributes
    ----------
    pivots : tuple of (int, int)
        Row and column of every pivot, in order of elimination.
    parts : tuple of dict of int to Node
        Value of every factor, by its number.
    lower, upper : tuple of tuple of (int, int or Node)
        For every pivot: earlier pivots and their multipliers; columns right of it and values.
        Each is the number of a factor or a literal.
    reciprocals : tuple of (int or Node)
        One over every pivot.
    """

    pivots: Pivots
    parts: tuple[dict[int, Node], ...]
    lower: tuple[tuple[tuple[int, int | Node], ...], ...]
    upper: tuple[tuple[tuple[int, int | Node], ...], ...]
    reciprocals: tuple[int | Node, ...]

    @property
    def size(self) -> int:
        """Count of numbers, the two of the growth included."""
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
            ``value(i)``: element of the solution as earlier parts left it.
        part : int
            Multiplications a part.

        Returns
        -------
        list of dict of int to Node
            Elements of the solution written by each part; the last writing counts.
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

        def known(place: int) -> Node:
            return parts[-1].get(place, value(place))

        # Forward, each result at the place of the unknown it will become, then backward.
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

    Markowitz's rule: the entry with the least ``(row count - 1) * (column count - 1)`` (H. M.
    Markowitz, Management Science 3, 255-269, 1957). Diagonal entries come first, because the
    step size makes them large; others are taken where the diagonal is structurally empty.

    Raises
    ------
    FlowError
        If the matrix is structurally singular.
    """
    n = len(pattern)
    rows = {i: set(columns) for i, columns in enumerate(pattern)}
    columns: dict[int, set[int]] = {j: set() for j in range(n)}
    for i, row in rows.items():
        for j in row:
            columns[j].add(i)
    pivots: list[tuple[int, int]] = []
    work = 0
    while rows:
        best: tuple[tuple[int, int, int, int], int, int] | None = None
        for i, row in rows.items():
            candidates = [i] if i in row else list(row) if i not in columns else []
            for j in candidates:
                cost = (len(row) - 1) * (len(columns[j]) - 1)
                key = (int(i != j), cost, i, j)
                if best is None or key < best[0]:
                    best = key, i, j
        if best is None:
            # Only rows whose own column is left but empty: any entry will do.
            entries = [(len(row), i, j) for i, row in rows.items() for j in row]
            if not entries:
                raise FlowError("the Jacobian is structurally singular: no unique step exists")
            _, i, j = min(entries)
        else:
            _, i, j = best
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
        work += len(column) * (len(row) + 1)
        if work > limit:
            return None
        pivots.append((i, j))
    return tuple(pivots)


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
        Multiplications a part.
    """
    step_of_column = {column: k for k, (_, column) in enumerate(pivots)}
    numbers: dict[Node, int] = {}
    parts: list[dict[int, Node]] = [{}]
    work, count = 0, 2
    found: tuple[list[Node], list[Node]] = ([], [])  # magnitudes in the upper factor, the matrix

    def close() -> None:
        """End a part: what it tells of the growth is added to what is known."""
        for number, nodes in enumerate(found):
            before = [read(number)] if len(parts) > 1 else []
            parts[-1][number] = _largest([*before, *nodes])
            nodes.clear()

    def store(node: Node) -> int | Node:
        nonlocal count
        if is_const(node):
            return node
        if node not in numbers:
            numbers[node] = count
            parts[-1][count] = node
            count += 1
        return numbers[node]

    def value(entry: int | Node) -> Node:
        if isinstance(entry, Node):
            return entry
        return parts[-1][entry] if entry in parts[-1] else read(entry)

    lower: list[tuple[tuple[int, int | Node], ...]] = []
    upper: list[tuple[tuple[int, int | Node], ...]] = []
    reciprocals: list[int | Node] = []
    for row_number, pivot_column in pivots:
        row = {j: node for j, node in matrix[row_number].items() if node is not ZERO}
        found[1].extend(row.values())
        line: list[tuple[int, int | Node]] = []
        # Earlier pivots in order; eliminating one may fill in the column of a later one.
        waiting = [step_of_column[j] for j in row if step_of_column[j] < len(lower)]
        heapify(waiting)
        queued = set(waiting)
        while waiting:
            k = heappop(waiting)
            multiplier = row.pop(pivots[k][1]) * value(reciprocals[k])
            entry = store(multiplier)
            line.append((k, entry))
            for j, above in upper[k]:
                row[j] = row.get(j, ZERO) - value(entry) * value(above)
                earlier = step_of_column[j]
                if earlier < len(lower) and earlier not in queued:
                    queued.add(earlier)
                    heappush(waiting, earlier)
            work += len(upper[k]) + 1
        pivot = row.pop(pivot_column, ZERO)
        found[0].extend([pivot, *row.values()])
        lower.append(tuple(line))
        reciprocals.append(store(ONE / pivot))
        upper.append(tuple((j, store(node)) for j, node in sorted(row.items())))
        if work > part:
            close()
            parts.append({})
            work = 0
    close()
    return LU(pivots, tuple(parts), tuple(lower), tuple(upper), tuple(reciprocals))


def _largest(nodes: Sequence[Node]) -> Node:
    """Return the largest magnitude; as a tree, which vectors like better than a chain."""
    sizes = [fabs(node) for node in dict.fromkeys(nodes)] or [const(0.0)]
    while len(sizes) > 1:
        pairs = [maximum(a, b) for a, b in zip(sizes[::2], sizes[1::2], strict=False)]
        sizes = pairs + sizes[2 * len(pairs) :]
    return sizes[0]
