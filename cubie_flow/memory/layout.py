"""Layouts of buffers: where each buffer is, and the bytes that a run needs."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from attrs import field, frozen
from numpy.typing import DTypeLike, NDArray

from cubie_flow.errors import FlowError, nearest
from cubie_flow.memory.arenas import ARENAS, label_of


@frozen
class Allocator:
    """The address of one buffer in its owner's region.

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
        The buffer whose memory it reuses; None if it has its own.
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
        """Return the buffer as a view of its owner's regions.

        Parameters
        ----------
        shared, local, persistent : ndarray of uint8, one dimension
            The owner's regions. A register buffer uses none of them and is a new array.

        Returns
        -------
        ndarray, shape ``(elements,)``

        Raises
        ------
        FlowError
            If the region is not a flat byte array or is too short.
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
    """A child's part of one arena.

    Attributes
    ----------
    offset, bytes : int
        Bytes from the start of its owner's region, and the length in bytes.
    """

    offset: int
    bytes: int

    def elements(self, dtype: DTypeLike) -> int:
        """Return the number of elements of ``dtype`` that hold the region."""
        return -(-self.bytes // np.dtype(dtype).itemsize)


@frozen(eq=False)
class ChildAllocators:
    """A child's regions in its owner, read from the registry at each access.

    So they include grandchildren that register later and follow changes of locations.
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
        """Return the child's regions as views of its owner's.

        Parameters
        ----------
        shared, local, persistent : ndarray of uint8, one dimension
            The owner's regions.
        """
        pairs = ((shared, self.shared), (local, self.local), (persistent, self.persistent))
        views = [_slice(arena, part.offset, part.bytes, self.name) for arena, part in pairs]
        return views[0], views[1], views[2]


@frozen
class LayoutEntry:
    """One buffer of a layout.

    Attributes
    ----------
    path : str
        The owner's path in the tree, such as ``run.loop.step``.
    owner : str
        The owner's label, the last part of ``path``.
    name, location, dtype, elements, bytes, arena, persistent
        As declared; the location as overridden.
    offset : int
        Bytes from the start of the root's arena.
    alias : str or None
        The buffer of the same owner whose memory it reuses.
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
        """Return whether this object owns the buffer, compared by identity."""
        return self._owner_ref() is owner


@frozen
class Layout:
    """Every buffer at and below one owner, and the bytes that each arena needs for one run.

    Attributes
    ----------
    entries : tuple of LayoutEntry
    extents : tuple of (str, int)
        Bytes by arena.
    """

    entries: tuple[LayoutEntry, ...]
    extents: tuple[tuple[str, int], ...]

    def bytes(self, arena: str) -> int:
        """Return the bytes of ``arena`` that one run needs."""
        extents = dict(self.extents)
        if arena not in extents:
            raise FlowError(
                f"arena={arena!r} is not one of {', '.join(ARENAS)}{nearest(arena, ARENAS)}"
            )
        return extents[arena]

    def elements(self, arena: str, dtype: DTypeLike) -> int:
        """Return the number of elements of ``dtype`` that hold ``arena``."""
        return -(-self.bytes(arena) // np.dtype(dtype).itemsize)

    def find(self, owner: object, name: str) -> LayoutEntry:
        """Return the entry of ``owner``'s buffer ``name``.

        Raises
        ------
        FlowError
            If there is none, or if the owner is in the tree twice, so that there are two.
        """
        owned = [entry for entry in self.entries if entry.belongs_to(owner)]
        named = [entry for entry in owned if entry.name == name]
        if len(named) != 1:
            reason = f"has {len(named)} entries" if named else "is missing"
            raise FlowError(
                f"buffer '{name}' of {label_of(owner)} {reason} in this layout"
                f"{nearest(name, [entry.name for entry in owned if entry.name != name])}"
            )
        return named[0]

    def widest_dtype(self, arena: str) -> np.dtype[Any] | None:
        """Return the widest dtype in ``arena`` (the first of equals), None if it is empty."""
        dtypes = [entry.dtype for entry in self.entries if entry.arena == arena and entry.bytes]
        return max(dtypes, key=lambda dtype: dtype.itemsize, default=None)
