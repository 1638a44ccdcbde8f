"""The base of every component that owns memory and builds something from settings."""

from __future__ import annotations

import hashlib
import json
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import attrs

from cubie_flow.errors import FlowError, nearest
from cubie_flow.memory.arenas import LOCATION_SUFFIX, label_of
from cubie_flow.memory.hashing import qualified_name, stable_hash
from cubie_flow.memory.registry import buffer_registry

Settings = TypeVar("Settings", bound=attrs.AttrsInstance)

# True while an update or adoption runs in this context; nested changes belong to it.
_changing: ContextVar[bool] = ContextVar("cubie_flow_changing", default=False)


class CUDAFactory(ABC, Generic[Settings]):
    """A component with frozen settings, buffers, children and one lazily built product.

    Subclasses implement `build`. If needed, they implement `register_buffers`, which declares
    buffers with ``buffer_registry``, and `arrange_children`, which adopts children.

    Parameters
    ----------
    settings : frozen attrs instance
        Compile-time settings. A field with metadata ``{"runtime": True}`` or ``{"hash": False}``
        changes neither the hash nor the product.

    Raises
    ------
    FlowError
        If the settings are not a frozen attrs instance, or a value has no stable content.
    """

    def __init__(self, settings: Settings) -> None:
        _check_frozen(settings)
        self._settings = settings
        self._settings_hash = stable_hash(settings)
        self._children: dict[str, CUDAFactory[Any]] = {}
        self._parents: list[weakref.ref[CUDAFactory[Any]]] = []
        self._locations: dict[str, str] = {}
        self._built: tuple[object, Any] | None = None
        self._hashed: tuple[object, str] | None = None
        self._arranging = False
        with _transaction(self):
            self._arrange()
            self._refresh()

    # ------------------------------------------------------------------ implemented by subclasses

    @abstractmethod
    def build(self) -> Any:
        """Build the product from the settings, the children and the registry."""

    def register_buffers(self) -> None:
        """Declare every buffer that the settings and children need.

        Called at first and after any change here or below; a buffer that is not declared again is
        removed.
        """

    def arrange_children(self) -> None:
        """Adopt or release children according to the settings.

        Called at first and after a change of the component's own settings, before the children get
        the same update. A child that is still suitable should be kept.
        """

    # ------------------------------------------------------------------ read by others

    @property
    def settings(self) -> Settings:
        """The frozen settings; `update` is the only way to change them."""
        return self._settings

    @property
    def children(self) -> Mapping[str, CUDAFactory[Any]]:
        """The adopted children by name."""
        return MappingProxyType(self._children)

    @property
    def config_hash(self) -> str:
        """SHA-256 (hex) of everything that is compiled in, equal in every process.

        It covers the class, the settings, the hashes of the children and the layout of all buffers.
        """
        # An unchanged layout is the same object, so the comparison is fast.
        state = tuple(
            (
                type(factory),
                factory._settings_hash,
                *factory._children,
                buffer_registry.layout(factory),
            )
            for factory in self._subtree()
        )
        if self._hashed is None or self._hashed[0] != state:
            self._hashed = state, self._hash()
        return self._hashed[1]

    def _hash(self) -> str:
        buffers = [
            [e.path, e.name, e.location, e.dtype.str, e.elements, e.offset, e.persistent, e.alias]
            for e in buffer_registry.layout(self).entries
        ]
        children = [[name, child.config_hash] for name, child in self._children.items()]
        content = [qualified_name(type(self)), self._settings_hash, children, buffers]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def product(self) -> Any:
        """The result of `build`: the same object until something that is compiled in changes."""
        key = (self.config_hash, *(type(factory) for factory in self._subtree()))
        if self._built is None or self._built[0] != key:
            self._built = (key, self.build())
        return self._built[1]

    # ------------------------------------------------------------------ changes

    def update(self, **settings: Any) -> set[str]:
        """Change settings and locations of buffers here and below, all or none.

        Parameters
        ----------
        **settings
            Fields of the settings of any component of this tree, and ``<buffer>_location`` keys
            of any of its buffers. A location is remembered and applied to later children.

        Returns
        -------
        set of str
            The keys recognised.

        Raises
        ------
        FlowError
            If a value is refused or a key is unknown; nothing has changed then. Within another
            update, unknown keys are left to the outermost update.
        """
        outermost = not _changing.get()
        with _transaction(self):
            before = self._settings_hashes()
            recognised = self._apply(settings)
            if before != self._settings_hashes():
                self._refresh_ancestors()
            locations = {key: settings[key] for key in buffer_registry.update(self, settings)}
            if locations:
                self._remember(locations)
                # The sizes of a parent may depend on the locations of its children's buffers.
                for factory in reversed(list(self._subtree())):
                    factory._refresh()
                self._refresh_ancestors()
            recognised |= set(locations)
            if outermost:
                for key in settings:
                    if key not in recognised:
                        known = self._known_keys()
                        raise FlowError(
                            f"{key}={settings[key]!r} is not a setting of {label_of(self)} or its"
                            f" parts{nearest(key, known) or '; known: ' + ', '.join(known)}"
                        )
        return recognised

    def adopt(self, name: str, child: CUDAFactory[Any]) -> None:
        """Make ``child`` the child ``name``, in place of an earlier child of that name.

        Locations set on this component hold for the new child too. Adopting the present child again
        changes nothing.

        Raises
        ------
        FlowError
            If ``child`` is not a factory, or this component is below it.
        """
        if not isinstance(child, CUDAFactory):
            raise FlowError(
                f"child '{name}' of {label_of(self)} is {child!r}, not a CUDAFactory instance"
            )
        if self._children.get(name) is child:
            return
        with _transaction(self, child):
            buffer_registry.get_child_allocators(self, child, name)
            for key in [key for key, other in self._children.items() if other is child]:
                del self._children[key]
            if not any(parent() is self for parent in child._parents):
                child._parents.append(weakref.ref(self))
            self._children[name] = child
            child._remember(self._locations)
            self._changed_below()

    def release(self, name: str) -> None:
        """Remove the child ``name``, if there is one."""
        if name in self._children:
            with _transaction(self):
                del self._children[name]
                buffer_registry.unlink(self, name)
                self._changed_below()

    # ------------------------------------------------------------------ inside

    def _apply(self, updates: Mapping[str, Any]) -> set[str]:
        """Apply the settings among ``updates`` here and below; return the keys recognised."""
        before = self._settings_hashes()
        fields = {f.alias: f for f in attrs.fields(type(self._settings)) if f.init}
        own = {key: value for key, value in updates.items() if key in fields}
        if own:
            self._settings = _evolved(self._settings, own)
            self._settings_hash = stable_hash(self._settings)
            self._arrange()
        recognised = set(own)
        for child in tuple(self._children.values()):
            recognised |= child._apply(updates)
        if before != self._settings_hashes():
            self._refresh()
        return recognised

    def _arrange(self) -> None:
        self._arranging = True
        try:
            self.arrange_children()
        finally:
            self._arranging = False

    def _refresh(self) -> None:
        buffer_registry.renew(self)
        self.register_buffers()

    def _refresh_ancestors(self) -> None:
        for parent in self._living_parents():
            parent._refresh()
            parent._refresh_ancestors()

    def _changed_below(self) -> None:
        # While children are arranged, the caller of `_arrange` refreshes once afterwards.
        if not self._arranging:
            self._refresh()
            self._refresh_ancestors()

    def _remember(self, locations: Mapping[str, str]) -> None:
        for factory in self._subtree():
            factory._locations.update(locations)
            buffer_registry.remember(factory, locations)

    def _subtree(self) -> Iterator[CUDAFactory[Any]]:
        yield self
        for child in self._children.values():
            yield from child._subtree()

    def _living_parents(self) -> list[CUDAFactory[Any]]:
        parents = [parent for ref in self._parents if (parent := ref()) is not None]
        unique = {id(p): p for p in parents if any(c is self for c in p._children.values())}
        return list(unique.values())

    def _roots(self) -> list[CUDAFactory[Any]]:
        parents = self._living_parents()
        return [root for parent in parents for root in parent._roots()] or [self]

    def _settings_hashes(self) -> list[tuple[int, str]]:
        return [(id(factory), factory._settings_hash) for factory in self._subtree()]

    def _known_keys(self) -> list[str]:
        keys = [
            field.alias
            for factory in self._subtree()
            for field in attrs.fields(type(factory._settings))
            if field.init
        ]
        entries = buffer_registry.layout(self).entries
        return list(dict.fromkeys(keys + [f"{e.name}{LOCATION_SUFFIX}" for e in entries]))

    def _snapshot(self) -> Callable[[], None]:
        saved = [
            (
                factory,
                factory._settings,
                factory._settings_hash,
                dict(factory._children),
                dict(factory._locations),
            )
            for factory in self._subtree()
        ]
        restore_registry = buffer_registry.snapshot(self)

        def restore() -> None:
            for factory, settings, settings_hash, children, locations in saved:
                factory._settings = settings
                factory._settings_hash = settings_hash
                factory._children = children
                factory._locations = locations
            restore_registry()

        return restore


@contextmanager
def _transaction(*factories: CUDAFactory[Any]) -> Iterator[None]:
    """Restore the whole trees of the factories if an exception leaves the block."""
    roots = [root for factory in factories for root in factory._roots()]
    restores = [root._snapshot() for root in roots]
    token = _changing.set(True)
    try:
        yield
    except BaseException:
        for restore in restores:
            restore()
        raise
    finally:
        _changing.reset(token)


def _evolved(settings: Any, changes: Mapping[str, Any]) -> Any:
    """Return the settings with ``changes``; the error for a refused value names the key."""
    try:
        return attrs.evolve(settings, **changes)
    except (TypeError, ValueError) as error:
        raise _refusal(settings, changes, error) from error


def _refusal(settings: Any, changes: Mapping[str, Any], error: Exception) -> FlowError:
    for key, value in changes.items():
        try:
            attrs.evolve(settings, **{key: value})
        except (TypeError, ValueError) as single:
            return FlowError(f"{key}={value!r} is refused: {_reason(single)}")
    together = ", ".join(f"{key}={value!r}" for key, value in changes.items())
    return FlowError(f"{together} are refused together: {_reason(error)}")


def _reason(error: Exception) -> str:
    # The other arguments of an attrs error are the attribute, the type and the value.
    return str(error.args[0]) if error.args else type(error).__name__


def _check_frozen(settings: Any) -> None:
    if not attrs.has(type(settings)):
        raise FlowError(f"settings {settings!r} are not an instance of a frozen attrs class")
    for one in attrs.fields(type(settings))[:1]:
        try:
            setattr(settings, one.name, getattr(settings, one.name))
        except attrs.exceptions.FrozenInstanceError:
            continue
        raise FlowError(f"settings of {type(settings).__name__} are not frozen")
