"""The buffer registry: every buffer by name, and the layout of all buffers.

A component (an *owner*) declares its buffers and links its children; the registry computes the
address of each buffer. ``shared``, ``local`` and ``persistent`` are flat byte arenas of one run. A
child's region is inside its parent's, so offsets are relative to the owner's region, and only the
root has absolute ones. ``register`` values never leave a block; they are counted but have no
address.

A layout is computed on demand and kept until a declaration at or below its owner changes.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from cubie_flow.errors import FlowError, nearest
from cubie_flow.memory.arenas import ARENAS, LOCATION_SUFFIX, check_location, label_of
from cubie_flow.memory.layout import Allocator, ChildAllocators, Layout, Region
from cubie_flow.memory.packing import Buffer, Record, layout_entries, region_plan


class BufferRegistry:
    """Declarations of buffers and children by owner, and the layouts that follow from them.

    Owners are compared by identity and referenced weakly: the entries of a freed owner are removed.
    """

    def __init__(self) -> None:
        self._records: dict[int, Record] = {}

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
        """Declare a buffer; a second declaration keeps the position in the order.

        Parameters
        ----------
        name : str
            The buffer's name; ``<name>_location`` becomes its configuration key.
        owner : object
            The component that owns it: an object with weak references that is not callable.
        size : int
            Number of elements of ``dtype``, zero or more.
        location : {'register', 'local', 'shared'}
            The default location; `update` and `remember` override it.
        dtype : dtype-like
            A boolean, integer or floating type of at most 8 bytes.
        persistent : bool
            Whether the value must survive between steps; in local memory it has its own arena.
        aliases : str, optional
            A buffer of the same owner that is never live at the same time. Its memory is reused
            if both are in the same addressable arena, neither is persistent, the target is not an
            alias itself, and its other aliases leave enough space.

        Raises
        ------
        FlowError
            If an argument is not as described.
        """
        buffer = _checked_buffer(name, size, location, dtype, persistent, aliases)
        record = self._record(owner)
        if record.buffers.get(name) != buffer:
            record.buffers[name] = buffer
            record.invalidate()

    def get_child_allocators(
        self, owner: object, child: object, name: str | None = None
    ) -> ChildAllocators:
        """Link ``child`` under ``owner`` and return its regions.

        A linked child keeps its position and its buffers; another child of the same name is
        unlinked.

        Parameters
        ----------
        owner, child : object
            Instances; a function or a compiled kernel is refused.
        name : str, optional
            The child's label in paths; by default its present one, or its class in snake case.

        Raises
        ------
        FlowError
            If ``child`` is callable, or ``owner`` is below it.
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
        """Unlink the child ``name`` of ``owner``; the child keeps its buffers."""
        record = self._record(owner)
        if record.children.pop(name, None) is not None:
            record.invalidate()

    def clear(self, owner: object) -> None:
        """Remove the buffers and links of ``owner``.

        Its overridden locations are configuration and stay.
        """
        record = self._record(owner)
        record.buffers, record.children = {}, {}
        record.invalidate()

    def renew(self, owner: object) -> None:
        """Remove the buffers of ``owner``, which declares all of them again next.

        Children and overridden locations stay. The order is that of the new declarations, so a
        layout never depends on earlier declarations.
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
            Any settings; other keys are ignored.

        Returns
        -------
        set of str
            The keys recognised.

        Raises
        ------
        FlowError
            If a location is unknown; nothing is moved then.
        """
        moves: list[tuple[Record, str, str]] = []
        recognised = set()
        for record in self._record(owner).subtree():
            for name in record.buffers:
                key = f"{name}{LOCATION_SUFFIX}"
                if key in updates:
                    check_location(key, updates[key])
                    recognised.add(key)
                    moves.append((record, name, updates[key]))
        for record, name, location in moves:
            record.override(name, location)
        return recognised

    def remember(self, owner: object, updates: Mapping[str, str]) -> None:
        """Override locations for ``owner`` alone, also of buffers that it declares later.

        Parameters
        ----------
        owner : object
        updates : mapping
            Locations by ``<buffer>_location``.
        """
        for key, location in updates.items():
            check_location(key, location)
            self._record(owner).override(key.removesuffix(LOCATION_SUFFIX), location)

    def snapshot(self, owner: object) -> Callable[[], None]:
        """Return a function that restores the present declarations at and below ``owner``."""
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
        """Return the address of the buffer ``name`` in its owner's region.

        Raises
        ------
        FlowError
            If the owner has no such buffer.
        """
        record = self._record(owner)
        plan = region_plan(record)
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

        The same object is returned until a declaration changes.
        """
        record = self._record(owner)
        if record.layout is None:
            entries = tuple(layout_entries(record, record.label, dict.fromkeys(ARENAS, 0)))
            record.layout = Layout(entries, tuple(region_plan(record).extent.items()))
        return record.layout

    def shared_buffer_bytes(self, owner: object) -> int:
        """Return the shared bytes of one run at and below ``owner``, before padding."""
        return self.layout(owner).bytes("shared")

    def local_buffer_bytes(self, owner: object) -> int:
        """Return the local bytes of one run at and below ``owner``, without persistent ones."""
        return self.layout(owner).bytes("local")

    def persistent_local_buffer_bytes(self, owner: object) -> int:
        """Return the persistent local bytes of one run at and below ``owner``."""
        return self.layout(owner).bytes("persistent")

    def __len__(self) -> int:
        """Return the number of owners."""
        return len(self._records)

    # ------------------------------------------------------------------ inside

    def _record(self, owner: object) -> Record:
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
            stale = self._records.get(key)
            if stale is None or stale.owner is not dead:
                return
            del self._records[key]
            for parent in tuple(stale.parents):
                others = {n: child for n, child in parent.children.items() if child is not stale}
                if len(others) != len(parent.children):
                    parent.children = others
                    parent.invalidate()

        try:
            reference = weakref.ref(owner, forget)
        except TypeError as error:
            raise FlowError(
                f"{owner!r} cannot own buffers: owners are referenced weakly and"
                f" {type(owner).__name__} has no weak references"
            ) from error
        record = self._records[key] = Record(reference, label_of(owner))
        return record

    @staticmethod
    def _free_label(record: Record, label: str) -> str:
        free, number = label, 2
        while free in record.children:
            free, number = f"{label}_{number}", number + 1
        return free


def _checked_buffer(
    name: str,
    size: int,
    location: str,
    dtype: DTypeLike,
    persistent: bool,
    aliases: str | None,
) -> Buffer:
    """Return a declared buffer, or refuse its arguments."""
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
            f"dtype={kind} of buffer '{name}' is not a boolean, integer or float of at most 8 bytes"
        )
    if aliases == name:
        raise FlowError(f"buffer '{name}' cannot alias itself")
    check_location(f"{name}{LOCATION_SUFFIX}", location)
    return Buffer(name, elements, location, kind, bool(persistent), aliases)


def _region_reader(record: Record, inner: Record) -> Callable[[str], Region]:
    def region(arena: str) -> Region:
        for name, below in record.children.items():
            if below is inner:
                offset = region_plan(record).children[name, arena]
                return Region(offset, region_plan(inner).extent[arena])
        raise FlowError(f"{inner.label} is no longer a child of {record.label}")

    return region


buffer_registry = BufferRegistry()
