"""The packing of declared buffers into regions of bytes.

A region depends on the declarations alone: the same declarations in the same order give the same
bytes.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from attrs import evolve, frozen

from cubie_flow.errors import FlowError, nearest
from cubie_flow.memory.arenas import ARENAS, aligned
from cubie_flow.memory.layout import Layout, LayoutEntry


@frozen
class Buffer:
    """One declared buffer; ``location`` is the declared one, before overrides."""

    name: str
    elements: int
    location: str
    dtype: np.dtype[Any]
    persistent: bool
    aliases: str | None

    @property
    def bytes(self) -> int:
        """Length in bytes."""
        return self.elements * self.dtype.itemsize

    @property
    def arena(self) -> str:
        """The arena of the location; persistent local buffers have their own."""
        return "persistent" if self.persistent and self.location == "local" else self.location


@frozen
class Plan:
    """The packed regions of one owner, in bytes.

    Attributes
    ----------
    buffers : mapping
        (buffer, offset, alias) by name.
    children : mapping
        Offset by (child, arena).
    extent, alignment : mapping
        By arena.
    """

    buffers: Mapping[str, tuple[Buffer, int, str | None]]
    children: Mapping[tuple[str, str], int]
    extent: Mapping[str, int]
    alignment: Mapping[str, int]


class Record:
    """Declarations of one owner, which is referenced weakly."""

    def __init__(self, owner: weakref.ref[Any], label: str) -> None:
        self.owner = owner
        self.label = label
        self.buffers: dict[str, Buffer] = {}
        self.overrides: dict[str, str] = {}
        self.children: dict[str, Record] = {}
        # Every record that ever linked this one; a former parent is only recomputed needlessly.
        self.parents: weakref.WeakSet[Record] = weakref.WeakSet()
        self.plan: Plan | None = None
        self.layout: Layout | None = None

    def located(self) -> dict[str, Buffer]:
        """Return the buffers at their locations after overrides."""
        return {
            name: evolve(buffer, location=self.overrides.get(name, buffer.location))
            for name, buffer in self.buffers.items()
        }

    def subtree(self) -> Iterator[Record]:
        """Yield this record and all below."""
        yield self
        for child in self.children.values():
            yield from child.subtree()

    def invalidate(self) -> None:
        """Drop the layouts of this record and of all above."""
        self.plan = None
        self.layout = None
        for parent in tuple(self.parents):
            parent.invalidate()

    def override(self, name: str, location: str) -> None:
        """Set the location of a buffer, in place of the declared one."""
        if self.overrides.get(name) != location:
            self.overrides[name] = location
            self.invalidate()


def _hosts(record: Record, buffers: Mapping[str, Buffer]) -> dict[str, tuple[str, int]]:
    """Return the host and the offset in it of every alias that can reuse memory.

    Only direct pairs overlap: a buffer inside another one hosts no alias, because an alias of an
    alias may be live together with the first buffer.
    """
    hosts: dict[str, tuple[str, int]] = {}
    used: dict[str, int] = {}
    for name in _targets_first(record, buffers):
        buffer = buffers[name]
        if buffer.aliases is None:
            continue
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
    return hosts


def _targets_first(record: Record, buffers: Mapping[str, Buffer]) -> list[str]:
    """Return the names of buffers in order of declaration, but every alias after its target.

    Raises
    ------
    FlowError
        If a target is not registered, or aliases form a circle.
    """
    order: dict[str, None] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in order:
            return
        if name in path:
            raise FlowError(
                f"buffers of {record.label} alias in a circle: {' -> '.join((*path, name))}"
            )
        target = buffers[name].aliases
        if target is not None:
            if target not in buffers:
                raise FlowError(
                    f"buffer '{name}' of {record.label} aliases '{target}', which is not"
                    f" registered{nearest(target, [key for key in buffers if key != name])}"
                )
            visit(target, (*path, name))
        order[name] = None

    for name in buffers:
        visit(name, ())
    return list(order)


def region_plan(record: Record) -> Plan:
    """Return the packed regions of an owner: its buffers, then its children, as registered."""
    if record.plan is not None:
        return record.plan
    buffers = record.located()
    hosts = _hosts(record, buffers)
    # A host is aligned for its widest guest, so that offsets in it stay aligned.
    alignments = {name: buffer.dtype.itemsize for name, buffer in buffers.items() if buffer.bytes}
    for name, (target, _) in hosts.items():
        if name in alignments:
            alignments[target] = max(alignments[target], alignments[name])
    extent = dict.fromkeys(ARENAS, 0)
    alignment = dict.fromkeys(ARENAS, 1)

    def append(arena: str, count: int, align: int) -> int:
        start = aligned(extent[arena], align)
        extent[arena] = start + count
        alignment[arena] = max(alignment[arena], align)
        return start

    own = {
        name: append(buffer.arena, buffer.bytes, alignments.get(name, 1))
        for name, buffer in buffers.items()
        if name not in hosts
    }
    addresses: dict[str, tuple[Buffer, int, str | None]] = {}
    for name, buffer in buffers.items():
        if name in hosts:
            target, inside = hosts[name]
            addresses[name] = (buffer, own[target] + inside, target)
        else:
            addresses[name] = (buffer, own[name], None)
    children = {}
    for name, below in record.children.items():
        inner = region_plan(below)
        for arena in ARENAS:
            children[name, arena] = append(arena, inner.extent[arena], inner.alignment[arena])
    record.plan = Plan(addresses, children, extent, alignment)
    return record.plan


def layout_entries(record: Record, path: str, base: Mapping[str, int]) -> Iterator[LayoutEntry]:
    """Yield the entries of a record and all below.

    Parameters
    ----------
    record : Record
    path : str
        Path of the owner.
    base : mapping
        Offset of the owner's region in the root's, by arena.
    """
    plan = region_plan(record)
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
        yield from layout_entries(below, f"{path}.{name}", inside)
