"""The only module that uses parts of xarray that its documentation does not promise.

Written for xarray 2025.1 to 2026.9. A new version of xarray is checked here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from html import escape
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing


def data_object(data: xr.Dataset, name: str) -> Any:
    """Return the object that holds the values of a variable, without reading the values."""
    return data.variables[name]._data


class LazyTree(xr.DataTree):  # type: ignore[no-untyped-call]
    """A tree whose children are opened when they are asked for; `lazy_tree` makes it.

    Its text is short: that of `xarray.DataTree` would open every child.
    """

    __slots__ = ("_text",)

    def __repr__(self) -> str:  # type: ignore[override]
        text = getattr(self, "_text", None)
        return str(super().__repr__() if text is None else text(self))

    def _repr_html_(self) -> str:
        if getattr(self, "_text", None) is None:
            return str(super()._repr_html_())  # type: ignore[no-untyped-call]
        return f"<pre>{escape(repr(self))}</pre>"


class _Children(dict[str, Any]):
    """The children of a tree by name; each is opened at its first use."""

    def __init__(self, names: Iterable[str], make: Callable[[str], xr.DataTree]) -> None:
        super().__init__(dict.fromkeys(names))
        self._make = make

    def __getitem__(self, name: str) -> Any:
        node = super().__getitem__(name)
        if node is None:
            node = self._make(name)
            self[name] = node
        return node

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self.keys() else default

    def __iter__(self) -> Iterator[str]:
        # A dictionary made from this one then asks for every value.
        return iter(self.keys())

    def values(self) -> Any:
        return [self[name] for name in self.keys()]

    def items(self) -> Any:
        return [(name, self[name]) for name in self.keys()]


def lazy_tree(
    root: xr.Dataset,
    names: Iterable[str],
    open_child: Callable[[str], xr.Dataset],
    text: Callable[[xr.DataTree], str],
) -> LazyTree:
    """Return a tree of one level whose children are opened at their first use.

    Parameters
    ----------
    root : xarray.Dataset
        It shares no dimension with a child, which xarray would otherwise have to compare.
    names : iterable of str
        Names of the children.
    open_child : callable
        Takes a name and returns the dataset of the child.
    text : callable
        Takes the tree and returns it as text.
    """

    def make(name: str) -> xr.DataTree:
        node = xr.DataTree(open_child(name), name=name)
        node._parent = tree
        return node

    tree = LazyTree(root)
    tree._text = text
    tree._children = _Children(names, make)
    return tree


class _LazyArray(BackendArray):  # type: ignore[misc]
    """An array whose values a function reads, for one index per axis."""

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], read: Callable[..., NDArray[Any]]
    ) -> None:
        self.shape, self.dtype, self._read = shape, dtype, read

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )


def lazy_variable(
    dims: tuple[Any, ...],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    read: Callable[[tuple[Any, ...]], NDArray[Any]],
    attrs: Any,
) -> xr.Variable:
    """Return a variable whose values are read when an index asks for them.

    Parameters
    ----------
    dims, shape : tuple
        Name and length of every dimension.
    dtype : numpy.dtype
    read : callable
        Takes one integer, slice or array of positions per dimension (an outer index) and returns
        the values. A dimension that an integer selects is dropped.
    attrs : mapping
        Attributes of the variable.
    """
    array = _LazyArray(shape, dtype, read)
    return xr.Variable(dims, indexing.LazilyIndexedArray(array), attrs)
