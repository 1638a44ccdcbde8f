"""Blocks: straight-line code over named buffers, the unit that is compiled.

A block is a list of statements. A statement reads all its values before it writes any, so its
meaning does not depend on whether its buffers are in memory or in registers. A buffer without a
place in memory is a temporary value of the block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from attrs import field, frozen

from cubie_flow.expressions.graph import Node, load, symbol
from cubie_flow.expressions.traversal import content_hash, substitute, topological

#: Sweeps and functions up to this size are unrolled; measured in docs/lab-book.md.
UNROLL_LIMIT = 8
#: Operations that an elementary function counts as.
CALL = 20


def operations(nodes: Sequence[Node]) -> int:
    """Return the number of operations; an elementary function counts as `CALL` more."""
    order = topological(nodes)
    return len(order) + CALL * sum(node.op == "call" for node in order)


#: Elements that an index moves by: per step of a sweep, or per step of each named loop counter.
Stride = int | tuple[tuple[str, int], ...]


@frozen
class Sweep:
    """Elementwise statement: for every ``j < count``, write nodes to ``base + stride*j``.

    A target with stride 0 that the nodes read is carried from one element to the next. That
    makes sums and maxima, always in element order.
    """

    count: int
    targets: tuple[tuple[str, int, Stride], ...]
    nodes: tuple[Node, ...]

    def content(self) -> str:
        """Return what identifies the statement."""
        return repr((self.count, self.targets, content_hash(self.nodes)))

    def buffers(self) -> tuple[set[str], set[str]]:
        """Return the names of the buffers read and written."""
        reads = {node.value[0] for node in topological(self.nodes) if node.op == "load"}
        return reads, {buffer for buffer, _, _ in self.targets}


@frozen
class Function:
    """A named function of arrays and scalars, compiled as a separate function if it is large.

    Parameters
    ----------
    name : str
    inputs, scalars : tuple of str
        Formal arrays, which nodes read as ``load(formal, index)``, and formal scalars, which
        they read as ``symbol(formal)``.
    outputs : tuple of (str, int)
        Formal array and index that each of `nodes` is written to.
    nodes : tuple of Node
    apart : bool
        Compile it separately whatever its size, if its buffers are in memory.
    """

    name: str
    inputs: tuple[str, ...]
    scalars: tuple[str, ...]
    outputs: tuple[tuple[str, int], ...]
    nodes: tuple[Node, ...]
    apart: bool = False

    def content(self) -> str:
        """Return what identifies the function."""
        own = (self.inputs, self.scalars, self.outputs, self.apart)
        return repr((own, content_hash(self.nodes)))

    @property
    def content_hash(self) -> str:
        """Hash of the content, part of the compiled name."""
        return hashlib.sha256(self.content().encode()).hexdigest()


@frozen
class Evaluate:
    """Call of a function: formal arrays are bound to (buffer, base), scalars to nodes."""

    function: Function
    arrays: Mapping[str, tuple[str, int]]
    scalars: Mapping[str, Node]

    def inlined(self) -> Sweep:
        """Return the same work as one statement."""
        function = self.function
        mapping: dict[Node, Node] = {symbol(name): node for name, node in self.scalars.items()}
        for node in topological(function.nodes):
            if node.op == "load" and node.value[0] in self.arrays:
                buffer, base = self.arrays[node.value[0]]
                mapping[node] = load(buffer, base + node.value[1], kind=node.kind)
        nodes = tuple(substitute(function.nodes, mapping))
        targets = []
        for formal, index in function.outputs:
            buffer, base = self.arrays[formal]
            targets.append((buffer, base + index, 0))
        return Sweep(1, tuple(targets), nodes)

    def buffers(self) -> tuple[set[str], set[str]]:
        """Return the names of the buffers read and written."""
        outputs = {formal for formal, _ in self.function.outputs}
        used = {n.value[0] for n in topological(self.function.nodes) if n.op == "load"}
        reads = {self.arrays[formal][0] for formal in used}
        reads |= {n.value[0] for n in topological(self.scalars.values()) if n.op == "load"}
        return reads, {self.arrays[formal][0] for formal in outputs}

    def content(self) -> str:
        """Return what identifies the statement."""
        scalars = content_hash(tuple(self.scalars.values()))
        return repr((self.function.content(), dict(self.arrays), list(self.scalars), scalars))


@frozen
class Repeat:
    """Repeat the body until no lane needs another pass, at most `limit` times.

    The body must not change lanes that need no further pass, so that the numbers of a run do not
    depend on its neighbours. A value that is first set in the body is known only there.
    """

    body: tuple[Statement, ...]
    again: Node
    limit: int

    def content(self) -> str:
        """Return what identifies the statement."""
        inner = [statement.content() for statement in self.body]
        return repr(("repeat", inner, content_hash([self.again]), self.limit))

    def condition(self) -> Node:
        """Truth that causes another pass if it holds in any lane."""
        return self.again


@frozen
class When:
    """Run the body if any lane needs it; the body must not change the other lanes.

    A `rare` body is compiled to cost little where it does not run.
    """

    wanted: Node
    body: tuple[Statement, ...]
    rare: bool = False

    def content(self) -> str:
        """Return what identifies the statement."""
        inner = [statement.content() for statement in self.body]
        kind = "rarely" if self.rare else "when"
        return repr((kind, inner, content_hash([self.wanted])))

    def condition(self) -> Node:
        """Truth that makes the body run if it holds in any lane."""
        return self.wanted


@frozen
class Nest:
    """A counted loop around statements that are too large to be unrolled.

    Parameters
    ----------
    variable : str
        Name of the loop's counter, for the strides of loads and targets.
    start, stop : int or tuple of (str, int)
        Bounds; a tuple is the counter of an outer loop plus a number.
    body : tuple of Statement
        The sweeps in it have count 1.
    """

    variable: str
    start: int | tuple[str, int]
    stop: int | tuple[str, int]
    body: tuple[Statement, ...]

    def content(self) -> str:
        """Return what identifies the statement."""
        inner = [statement.content() for statement in self.body]
        return repr(("nest", self.variable, self.start, self.stop, inner))


Statement = Sweep | Evaluate | Repeat | When | Nest


def flattened(statements: Iterable[Statement]) -> Iterator[Sweep | Evaluate]:
    """Yield every plain statement in order, including those in bodies."""
    for statement in statements:
        if isinstance(statement, Repeat | When | Nest):
            yield from flattened(statement.body)
        else:
            yield statement


def conditions(statements: Iterable[Statement]) -> Iterator[Node]:
    """Yield the conditions of all loops and branches."""
    for statement in statements:
        if isinstance(statement, Repeat | When):
            yield statement.condition()
        if isinstance(statement, Repeat | When | Nest):
            yield from conditions(statement.body)


@frozen
class Block:
    """Straight-line code over named buffers.

    Parameters
    ----------
    name : str
    statements : tuple of Statement
    externals : tuple of str
        Arrays outside the run's own memory; each is passed as (pointer, stride, offset) and
        element ``i`` is ``pointer[i*stride + offset]``. In a vector block all lanes read the
        same element.
    per_lane : bool
        Work on one lane, whose number is an argument, instead of on all lanes at once.
    mask : Node, optional
        Truth returned as an integer with one bit per lane.
    """

    name: str
    statements: tuple[Statement, ...]
    externals: tuple[str, ...] = ()
    per_lane: bool = False
    mask: Node | None = None
    digest: str = field(init=False, eq=False)

    @digest.default
    def _digest(self) -> str:
        parts = [repr((self.name, self.externals, self.per_lane, UNROLL_LIMIT))]
        parts += [statement.content() for statement in self.statements]
        if self.mask is not None:
            parts.append(content_hash([self.mask]))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class BlockBuilder:
    """Collects statements in the order in which they run."""

    def __init__(self) -> None:
        self.statements: list[Statement] = []

    def assign(self, targets: Sequence[tuple[str, int]], nodes: Sequence[Node]) -> None:
        """Write each node to its (buffer, index)."""
        if targets:
            places = tuple((buffer, index, 0) for buffer, index in targets)
            self.statements.append(Sweep(1, places, tuple(nodes)))

    def let(self, name: str, node: Node) -> Node:
        """Assign a value to a name; return the node that reads it in later statements."""
        self.assign([(name, 0)], [node])
        return load(name, 0, kind=node.kind)

    def sweep(
        self, count: int, targets: Mapping[str, Node] | Sequence[tuple[str, int, int, Node]]
    ) -> None:
        """Write nodes for every ``j < count``.

        Parameters
        ----------
        count : int
        targets : mapping or sequence of (str, int, int, Node)
            Node by buffer, written from element 0 on, or (buffer, base, stride, node).
        """
        if isinstance(targets, Mapping):
            targets = [(buffer, 0, 1, node) for buffer, node in targets.items()]
        places = tuple((buffer, base, stride) for buffer, base, stride, _ in targets)
        self.statements.append(Sweep(count, places, tuple(node for *_, node in targets)))

    def evaluate(
        self, function: Function, arrays: Mapping[str, tuple[str, int]], **scalars: Node
    ) -> None:
        """Call a function.

        Parameters
        ----------
        function : Function
        arrays : mapping
            Buffer and first element for every formal array.
        **scalars : Node
            Value of every formal scalar.
        """
        missing = set(function.scalars) - set(scalars)
        assert not missing, missing
        self.statements.append(
            Evaluate(function, dict(arrays), {n: scalars[n] for n in function.scalars})
        )

    @contextmanager
    def nest(
        self, variable: str, start: int | tuple[str, int], stop: int | tuple[str, int]
    ) -> Iterator[None]:
        """Collect the statements inside a counted loop.

        Parameters
        ----------
        variable : str
            Name of the loop's counter.
        start, stop : int or tuple of (str, int)
            Bounds; a tuple is the counter of an outer loop plus a number.
        """
        outer, self.statements = self.statements, []
        yield
        inner, self.statements = self.statements, outer
        self.statements.append(Nest(variable, start, stop, tuple(inner)))

    def put(self, *targets: tuple[str, int, Stride, Node]) -> None:
        """Write nodes at once to elements whose indices depend on loop counters."""
        places = tuple((buffer, base, moves) for buffer, base, moves, _ in targets)
        self.statements.append(Sweep(1, places, tuple(node for *_, node in targets)))

    @contextmanager
    def repeat(self, again: Callable[[], Node], limit: int) -> Iterator[None]:
        """Collect the statements of a loop; `again` is called after them for the condition."""
        outer, self.statements = self.statements, []
        yield
        wanted = again()
        inner, self.statements = self.statements, outer
        self.statements.append(Repeat(tuple(inner), wanted, limit))

    @contextmanager
    def when(self, wanted: Node, rare: bool = False) -> Iterator[None]:
        """Collect the statements that run only if some lane needs them, see `When`."""
        outer, self.statements = self.statements, []
        yield
        inner, self.statements = self.statements, outer
        self.statements.append(When(wanted, tuple(inner), rare))

    def build(
        self,
        name: str,
        externals: Sequence[str] = (),
        per_lane: bool = False,
        mask: Node | None = None,
    ) -> Block:
        """Return the finished block.

        Parameters
        ----------
        name : str
        externals : sequence of str
            Arrays outside the run's own memory.
        per_lane : bool
            Work on one lane instead of on all lanes at once.
        mask : Node, optional
            Truth returned as an integer with one bit per lane.
        """
        return Block(name, tuple(self.statements), tuple(externals), per_lane, mask)
