"""The buffer registry: every buffer by name, laid out in one place and asked by everyone.

A component (an *owner*) declares its buffers, a parent links its children, and the registry
answers where each buffer lies. Four arenas exist. ``shared``, ``local`` and ``persistent`` are
flat byte arenas of one run: a child's region lies inside its parent's, so offsets are relative to
the owner's region and only the root knows absolute ones. ``register`` values never leave a block;
they are counted and have no address to share.

Nothing is snapshotted. A layout is computed when asked for, kept until something below it changes,
and depends on declarations only: the same declarations in the same order give the same bytes.
"""

from __future__ import annotations

import operator
import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from attrs import evolve, field, frozen
from numpy.typing import DTypeLike, NDArray

from cubie_flow.allowed_values import LOCATIONS
from cubie_flow.errors import FlowError, nearest

ARENAS = ("register", "shared", "local", "persistent")
LOCATION_SUFFIX = "_location"


def aligned(offset: int, alignment: int) -> int:
    """Return the first multiple of ``alignment`` at or after ``offset`` (bytes)."""
    return -(-offset // alignment) * alignment


def label_of(owner: object) -> str:
    """Return the name an owner goes by where no parent names it: its class in snake case."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(owner).__name__.lstrip("_")).lower()


@frozen
class _Buffer:
    """One declared buffer; ``location`` is what the owner declared, before any override."""

    name: str
    elements: int
    location: str
    dtype: np.dtype[Any]
    persistent: bool
    aliases: str | None

    @property
    def bytes(self) -> int:
        return self.elements * self.dtype.itemsize

    @property
    def arena(self) -> str:
        return "persistent" if self.persistent and self.location == "local" else self.location


@frozen
class _Plan:
    """Where things lie inside one owner's regions; offsets and extents in bytes."""

    buffers: Mapping[str, tuple[_Buffer, int, str | None]]
    children: Mapping[tuple[str, str], int]
    extent: Mapping[str, int]
    alignment: Mapping[str, int]


class _Record:
    """What the registry holds of one owner. The owner itself is held weakly."""

    def __init__(self, owner: weakref.ref[Any], label: str) -> None:
        self.owner = owner
        self.label = label
        self.buffers: dict[str, _Buffer] = {}
        self.overrides: dict[str, str] = {}
        self.children: dict[str, _Record] = {}
        # Everyone who ever linked this record: too many only costs a needless recomputation.
        self.parents: weakref.WeakSet[_Record] = weakref.WeakSet()
        self.plan: _Plan | None = None
        self.layout: Layout | None = None

    def located(self) -> dict[str, _Buffer]:
        """Return the buffers at the locations they really have."""
        return {
            name: evolve(buffer, location=self.overrides.get(name, buffer.location))
            for name, buffer in self.buffers.items()
        }

    def subtree(self) -> Iterator[_Record]:
        yield self
        for child in self.children.values():
            yield from child.subtree()

    def invalidate(self) -> None:
        """Forget the layouts of this record and of everyone above it."""
        self.plan = None
        self.layout = None
        for parent in tuple(self.parents):
            parent.invalidate()


@frozen
class Allocator:
    """Where one buffer lies inside its owner's region.

    Attributes
    ----------
    name, owner : str
        The buffer and its owner's label.
    location : str
        ``register``, ``local`` or ``shared``.
    arena : str
        ``register``, ``shared``, ``local`` or ``persistent``.
    offset, bytes : int
        Bytes from the start of the owner's region of that arena, and the length in bytes.
    elements : int
        Length in elements of ``dtype``.
    dtype : numpy.dtype
    alias : str or None
        The buffer whose space it really reuses; None where it has its own.
    """

    name: str
    owner: str
    location: str
    arena: str
    offset: int
    elements: int
    dtype: np.dtype[Any]
    bytes: int
    alias: str | None

    def __call__(
        self, shared: NDArray[Any], local: NDArray[Any], persistent: NDArray[Any]
    ) -> NDArray[Any]:
        """Return this buffer as a view of its owner's regions.

        Parameters
        ----------
        shared, local, persistent : ndarray of uint8, one dimension
            The owner's regions. A register buffer uses none of them and is a fresh array.

        Returns
        -------
        ndarray, shape ``(elements,)``

        Raises
        ------
        FlowError
            If the region is no flat byte array or is too short.
        """
        if self.arena == "register":
            return np.zeros(self.elements, self.dtype)
        region = {"shared": shared, "local": local, "persistent": persistent}[self.arena]
        return _slice(region, self.offset, self.bytes, f"{self.owner}.{self.name}").view(self.dtype)


def _slice(region: NDArray[Any], offset: int, count: int, what: str) -> NDArray[Any]:
    if region.dtype != np.uint8 or region.ndim != 1:
        raise FlowError(f"{what} needs a flat uint8 arena, not {region.dtype} of {region.ndim}-d")
    if offset + count > region.size:
        raise FlowError(
            f"{what} needs bytes {offset} to {offset + count} of an arena of {region.size} bytes"
        )
    return region[offset : offset + count]


@frozen
class Region:
    """A child's part of one arena: ``offset`` and ``bytes`` inside its owner's region."""

    offset: int
    bytes: int

    def elements(self, dtype: DTypeLike) -> int:
        """Return how many elements of ``dtype`` hold the region (rounded up)."""
        return -(-self.bytes // np.dtype(dtype).itemsize)


@frozen(eq=False)
class ChildAllocators:
    """A child's regions inside its owner, read from the registry at each access.

    Grandchildren that register later, and locations that move, are therefore seen at once.
    """

    name: str
    _region: Callable[[str], Region] = field(repr=False)

    @property
    def shared(self) -> Region:
        """The child's shared region."""
        return self._region("shared")

    @property
    def local(self) -> Region:
        """The child's local region."""
        return self._region("local")

    @property
    def persistent(self) -> Region:
        """The child's persistent local region."""
        return self._region("persistent")

    def __call__(
        self, shared: NDArray[Any], local: NDArray[Any], persistent: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Cut the child's byte regions out of its owner's (flat uint8 arrays)."""
        pairs = ((shared, self.shared), (local, self.local), (persistent, self.persistent))
        cut = [_slice(arena, part.offset, part.bytes, self.name) for arena, part in pairs]
        return cut[0], cut[1], cut[2]


@frozen
class LayoutEntry:
    """One buffer of a layout.

    Attributes
    ----------
    path : str
        The owner's place in the tree, such as ``run.loop.step``.
    owner : str
        The owner's label, the last part of ``path``.
    name, location, dtype, elements, bytes, arena, persistent
        As declared and, for the location, as overridden.
    offset : int
        Bytes from the start of the root's arena.
    alias : str or None
        The buffer of the same owner whose space it really reuses.
    """

    path: str
    owner: str
    name: str
    location: str
    dtype: np.dtype[Any]
    elements: int
    bytes: int
    arena: str
    offset: int
    persistent: bool
    alias: str | None
    _owner_ref: weakref.ref[Any] = field(eq=False, repr=False)

    def belongs_to(self, owner: object) -> bool:
        """Tell whether this very object owns the buffer (identity, never equality)."""
        return self._owner_ref() is owner


@frozen
class Layout:
    """Every buffer at and below one owner, with the bytes each arena needs for one run."""

    entries: tuple[LayoutEntry, ...]
    extents: tuple[tuple[str, int], ...]

    def bytes(self, arena: str) -> int:
        """Return the bytes one run needs of ``arena``."""
        extents = dict(self.extents)
        if arena not in extents:
            raise FlowError(
                f"arena={arena!r} is none of {', '.join(ARENAS)}{nearest(arena, ARENAS)}"
            )
        return extents[arena]

    def elements(self, arena: str, dtype: DTypeLike) -> int:
        """Return how many elements of ``dtype`` hold ``arena`` (rounded up)."""
        return -(-self.bytes(arena) // np.dtype(dtype).itemsize)

    def find(self, owner: object, name: str) -> LayoutEntry:
        """Return the entry of ``owner``'s buffer ``name``.

        Raises
        ------
        FlowError
            If there is none, or if the owner hangs in the tree twice and the answer is not one.
        """
        owned = [entry for entry in self.entries if entry.belongs_to(owner)]
        found = [entry for entry in owned if entry.name == name]
        if len(found) != 1:
            reason = f"is at {len(found)} places" if found else "is not there"
            raise FlowError(
                f"buffer '{name}' of {label_of(owner)} {reason} in this layout"
                f"{nearest(name, [entry.name for entry in owned if entry.name != name])}"
            )
        return found[0]

    def widest_dtype(self, arena: str) -> np.dtype[Any] | None:
        """Return the widest dtype placed in ``arena`` (the first of equals), None if empty."""
        placed = [entry.dtype for entry in self.entries if entry.arena == arena and entry.bytes]
        return max(placed, key=lambda dtype: dtype.itemsize, default=None)


class BufferRegistry:
    """Declarations of buffers and children by owner, and the layouts that follow from them.

    Owners are told apart by identity and held weakly: a dropped owner frees its entries.
    """

    def __init__(self) -> None:
        self._records: dict[int, _Record] = {}

    # ------------------------------------------------------------------ declarations

    def register(
        self,
        name: str,
        owner: object,
        size: int,
        location: str,
        dtype: DTypeLike,
        persistent: bool = False,
        aliases: str | None = None,
    ) -> None:
        """Declare a buffer, or declare it anew in the same place of the order.

        Parameters
        ----------
        name : str
            The buffer's name; ``<name>_location`` becomes its configuration key.
        owner : object
            The component that owns it; any object that is weakly referable and not callable.
        size : int
            Elements of ``dtype``, zero or more.
        location : {'register', 'local', 'shared'}
            The default; a location set by `update` or `remember` stands above it.
        dtype : dtype-like
            A boolean, integer or floating type of at most 8 bytes.
        persistent : bool
            The value survives between steps; in local memory it gets an arena of its own.
        aliases : str, optional
            A buffer of the same owner that is never live at the same time. Its space is reused
            where both end in the same addressable memory, neither is persistent, the target has
            its own space and what its other aliases left suffices; otherwise the buffer gets its
            own space.

        Raises
        ------
        FlowError
            If any of these is not as described.
        """
        if not name.isidentifier():
            raise FlowError(f"buffer name {name!r} is not an identifier")
        try:
            elements = operator.index(size)
        except TypeError:
            elements = -1
        if elements < 0:
            raise FlowError(f"size={size!r} of buffer '{name}' is not a whole number >= 0")
        try:
            kind = np.dtype(dtype)
        except TypeError as error:
            raise FlowError(f"dtype={dtype!r} of buffer '{name}' is not a dtype") from error
        if kind.kind not in "biuf" or kind.itemsize not in (1, 2, 4, 8):
            raise FlowError(
                f"dtype={kind} of buffer '{name}' is not a boolean, integer or float of at most"
                " 8 bytes"
            )
        if aliases == name:
            raise FlowError(f"buffer '{name}' cannot alias itself")
        _check_location(f"{name}{LOCATION_SUFFIX}", location)
        buffer = _Buffer(name, elements, location, kind, bool(persistent), aliases)
        record = self._record(owner)
        if record.buffers.get(name) != buffer:
            record.buffers[name] = buffer
            record.invalidate()

    def get_child_allocators(
        self, owner: object, child: object, name: str | None = None
    ) -> ChildAllocators:
        """Link ``child`` under ``owner`` and return its regions.

        A child already linked keeps its place and everything it registered; another child of
        the same name is unlinked and leaves nothing here.

        Parameters
        ----------
        owner, child : object
            Instances; a function or a compiled kernel is refused.
        name : str, optional
            The child's label in paths; by default the one it has, or its class in snake case.

        Raises
        ------
        FlowError
            If ``child`` is callable or already holds ``owner``.
        """
        record, inner = self._record(owner), self._record(child)
        if any(below is record for below in inner.subtree()):
            raise FlowError(
                f"{label_of(child)} holds {label_of(owner)} and cannot be its child as well"
            )
        before = next((key for key, below in record.children.items() if below is inner), None)
        if name is None:
            name = before or self._free_label(record, inner.label)
        if before != name:
            if before is not None:
                del record.children[before]
            record.children[name] = inner
            inner.parents.add(record)
            record.invalidate()
        return ChildAllocators(name, _region_reader(record, inner))

    def unlink(self, owner: object, name: str) -> None:
        """Take the child ``name`` away from ``owner``; what the child registered stays its own."""
        record = self._record(owner)
        if record.children.pop(name, None) is not None:
            record.invalidate()

    def clear(self, owner: object) -> None:
        """Forget the buffers and links of ``owner``.

        Locations set for it are configuration and stay.
        """
        record = self._record(owner)
        record.buffers, record.children = {}, {}
        record.invalidate()

    def renew(self, owner: object) -> None:
        """Drop the buffers of ``owner``, which declares all of them afresh next.

        Children and set locations stay, and the order is that of the new declarations, so a
        layout never depends on what an owner was before.
        """
        record = self._record(owner)
        record.buffers = {}
        record.invalidate()

    # ------------------------------------------------------------------ locations

    def update(self, owner: object, updates: Mapping[str, Any]) -> set[str]:
        """Move the buffers named by ``<buffer>_location`` keys, at any depth below ``owner``.

        Parameters
        ----------
        owner : object
        updates : mapping
            Any settings; keys that name no buffer here are ignored.

        Returns
        -------
        set of str
            The keys recognised.

        Raises
        ------
        FlowError
            If a recognised key asks for an unknown location; nothing is moved then.
        """
        moves: list[tuple[_Record, str, str]] = []
        recognised = set()
        for record in self._record(owner).subtree():
            for name in record.buffers:
                key = f"{name}{LOCATION_SUFFIX}"
                if key in updates:
                    _check_location(key, updates[key])
                    recognised.add(key)
                    moves.append((record, name, updates[key]))
        for record, name, location in moves:
            _override(record, name, location)
        return recognised

    def remember(self, owner: object, updates: Mapping[str, str]) -> None:
        """Set ``<buffer>_location`` keys for ``owner`` alone, for buffers it has or will have."""
        for key, location in updates.items():
            _check_location(key, location)
            _override(self._record(owner), key.removesuffix(LOCATION_SUFFIX), location)

    def snapshot(self, owner: object) -> Callable[[], None]:
        """Return a function that puts back what is declared now at and below ``owner``."""
        saved = [
            (record, dict(record.buffers), dict(record.overrides), dict(record.children))
            for record in self._record(owner).subtree()
        ]

        def restore() -> None:
            for record, buffers, overrides, children in saved:
                record.buffers = buffers
                record.overrides = overrides
                record.children = children
                record.invalidate()

        return restore

    # ------------------------------------------------------------------ answers

    def get_allocator(self, name: str, owner: object) -> Allocator:
        """Return where ``owner``'s buffer ``name`` lies inside its owner's region.

        Raises
        ------
        FlowError
            If the owner has no such buffer.
        """
        record = self._record(owner)
        plan = _plan(record)
        if name not in plan.buffers:
            raise FlowError(f"{record.label} has no buffer '{name}'{nearest(name, plan.buffers)}")
        buffer, offset, alias = plan.buffers[name]
        return Allocator(
            name,
            record.label,
            buffer.location,
            buffer.arena,
            offset,
            buffer.elements,
            buffer.dtype,
            buffer.bytes,
            alias,
        )

    def layout(self, owner: object) -> Layout:
        """Return the layout of everything at and below ``owner``.

        The same object is returned until something in it changes.
        """
        record = self._record(owner)
        if record.layout is None:
            entries = tuple(_entries(record, record.label, dict.fromkeys(ARENAS, 0)))
            record.layout = Layout(entries, tuple(_plan(record).extent.items()))
        return record.layout

    def shared_buffer_bytes(self, owner: object) -> int:
        """Return the shared bytes of one run at and below ``owner``, before padding."""
        return self.layout(owner).bytes("shared")

    def local_buffer_bytes(self, owner: object) -> int:
        """Return the plain local bytes of one run at and below ``owner``."""
        return self.layout(owner).bytes("local")

    def persistent_local_buffer_bytes(self, owner: object) -> int:
        """Return the persistent local bytes of one run at and below ``owner``."""
        return self.layout(owner).bytes("persistent")

    def __len__(self) -> int:
        """Return the number of living owners known."""
        return len(self._records)

    # ------------------------------------------------------------------ inside

    def _record(self, owner: object) -> _Record:
        record = self._records.get(id(owner))
        if record is not None and record.owner() is owner:
            return record
        if callable(owner):
            raise FlowError(
                f"{owner!r} is a function, class or compiled kernel; buffers belong to the"
                " component instance that builds it"
            )
        key = id(owner)

        def forget(dead: weakref.ref[Any]) -> None:
            gone = self._records.get(key)
            if gone is None or gone.owner is not dead:
                return
            del self._records[key]
            for parent in tuple(gone.parents):
                kept = {name: below for name, below in parent.children.items() if below is not gone}
                if len(kept) != len(parent.children):
                    parent.children = kept
                    parent.invalidate()

        try:
            reference = weakref.ref(owner, forget)
        except TypeError as error:
            raise FlowError(
                f"{owner!r} cannot own buffers: owners are held weakly and"
                f" {type(owner).__name__} has no weak references"
            ) from error
        record = self._records[key] = _Record(reference, label_of(owner))
        return record

    @staticmethod
    def _free_label(record: _Record, label: str) -> str:
        free, number = label, 2
        while free in record.children:
            free, number = f"{label}_{number}", number + 1
        return free


def _check_location(key: str, location: object) -> None:
    if location not in LOCATIONS:
        raise FlowError(
            f"{key} is {location!r}; it must be one of {', '.join(LOCATIONS)}"
            f"{nearest(str(location), LOCATIONS)}"
        )


def _override(record: _Record, name: str, location: str) -> None:
    if record.overrides.get(name) != location:
        record.overrides[name] = location
        record.invalidate()


def _region_reader(record: _Record, inner: _Record) -> Callable[[str], Region]:
    def region(arena: str) -> Region:
        for name, below in record.children.items():
            if below is inner:
                offset = _plan(record).children[name, arena]
                return Region(offset, _plan(inner).extent[arena])
        raise FlowError(f"{inner.label} is no longer a child of {record.label}")

    return region


def _hosts(record: _Record, buffers: Mapping[str, _Buffer]) -> dict[str, tuple[str, int]]:
    """Return, for every alias that really reuses space, its target and the offset inside it.

    Only direct pairs overlap: a buffer that lies inside another hosts nobody, because nothing
    says that an alias of an alias may overwrite the first buffer.
    """
    hosts: dict[str, tuple[str, int]] = {}
    used: dict[str, int] = {}
    settled: set[str] = set()

    def settle(name: str, asking: tuple[str, ...]) -> None:
        if name in settled:
            return
        if name in asking:
            raise FlowError(
                f"buffers of {record.label} alias in a circle: {' -> '.join((*asking, name))}"
            )
        buffer = buffers[name]
        if buffer.aliases is not None:
            if buffer.aliases not in buffers:
                raise FlowError(
                    f"buffer '{name}' of {record.label} aliases '{buffer.aliases}', which is not"
                    f" registered{nearest(buffer.aliases, [key for key in buffers if key != name])}"
                )
            settle(buffer.aliases, (*asking, name))
            target = buffers[buffer.aliases]
            start = aligned(used.get(target.name, 0), buffer.dtype.itemsize)
            if (
                buffer.arena == target.arena
                and buffer.arena != "register"
                and not (buffer.persistent or target.persistent)
                and target.name not in hosts
                and start + buffer.bytes <= target.bytes
            ):
                hosts[name] = (target.name, start)
                used[target.name] = start + buffer.bytes
        settled.add(name)

    for name in buffers:
        settle(name, ())
    return hosts


def _plan(record: _Record) -> _Plan:
    """Lay out one owner's regions: its own buffers, then its children, in registration order."""
    if record.plan is not None:
        return record.plan
    buffers = record.located()
    hosts = _hosts(record, buffers)
    # A host starts where its widest guest may start, so an offset inside it stays aligned.
    slots = {name: buffer.dtype.itemsize for name, buffer in buffers.items() if buffer.bytes}
    for name, (target, _) in hosts.items():
        if name in slots:
            slots[target] = max(slots[target], slots[name])
    extent = dict.fromkeys(ARENAS, 0)
    alignment = dict.fromkeys(ARENAS, 1)

    def place(arena: str, count: int, align: int) -> int:
        start = aligned(extent[arena], align)
        extent[arena] = start + count
        alignment[arena] = max(alignment[arena], align)
        return start

    own = {
        name: place(buffer.arena, buffer.bytes, slots.get(name, 1))
        for name, buffer in buffers.items()
        if name not in hosts
    }
    placed: dict[str, tuple[_Buffer, int, str | None]] = {}
    for name, buffer in buffers.items():
        if name in hosts:
            target, inside = hosts[name]
            placed[name] = (buffer, own[target] + inside, target)
        else:
            placed[name] = (buffer, own[name], None)
    children = {}
    for name, below in record.children.items():
        inner = _plan(below)
        for arena in ARENAS:
            children[name, arena] = place(arena, inner.extent[arena], inner.alignment[arena])
    record.plan = _Plan(placed, children, extent, alignment)
    return record.plan


def _entries(record: _Record, path: str, base: Mapping[str, int]) -> Iterator[LayoutEntry]:
    plan = _plan(record)
    for name, (buffer, offset, alias) in plan.buffers.items():
        yield LayoutEntry(
            path,
            path.rpartition(".")[2],
            name,
            buffer.location,
            buffer.dtype,
            buffer.elements,
            buffer.bytes,
            buffer.arena,
            base[buffer.arena] + offset,
            buffer.persistent,
            alias,
            record.owner,
        )
    for name, below in record.children.items():
        inside = {arena: base[arena] + plan.children[name, arena] for arena in ARENAS}
        yield from _entries(below, f"{path}.{name}", inside)


buffer_registry = BufferRegistry()
