"""The base of every component that owns memory and builds something from settings."""

from __future__ import annotations

import hashlib
import json
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import attrs
import numpy as np

from cubie_flow.errors import FlowError, nearest
from cubie_flow.memory.registry import LOCATION_SUFFIX, buffer_registry, label_of

Settings = TypeVar("Settings", bound=attrs.AttrsInstance)

# True while an update or an adoption runs in this thread: what it calls joins it.
_changing: ContextVar[bool] = ContextVar("cubie_flow_changing", default=False)


class CUDAFactory(ABC, Generic[Settings]):
    """A component with frozen settings, buffers, children and one lazily built product.

    Subclasses write `build`, and where needed `register_buffers` (declare the buffers with
    ``buffer_registry``) and `arrange_children` (adopt the children that the settings ask for).

    Parameters
    ----------
    settings : frozen attrs instance
        Compile-time settings. A field with metadata ``{"runtime": True}`` or ``{"hash": False}``
        changes neither the hash nor the product.

    Raises
    ------
    FlowError
        If the settings are not frozen attrs, or hold a value with no stable content.
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

    # ------------------------------------------------------------------ what subclasses write

    @abstractmethod
    def build(self) -> Any:
        """Build the product from the settings, the children and the registry."""

    def register_buffers(self) -> None:
        """Declare every buffer that the settings and children ask for.

        Called at the start and after any change of the settings or below; what is not declared
        again is gone.
        """

    def arrange_children(self) -> None:
        """Adopt or release children as the settings ask.

        Called at the start and after a change of the own settings, before the children see the
        same update; keep a child that still serves.
        """

    # ------------------------------------------------------------------ what others read

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
        """SHA-256 (hex) of everything compiled in, equal in every process.

        It covers the class, the settings, the children's hashes and the layout of all buffers.
        """
        # A layout is the same object until something in it changes, so this is quick to compare.
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
        content = [_qualified(type(self)), self._settings_hash, children, buffers]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def product(self) -> Any:
        """What `build` made: the same object until something compiled in changes."""
        key = (self.config_hash, *(type(factory) for factory in self._subtree()))
        if self._built is None or self._built[0] != key:
            self._built = (key, self.build())
        return self._built[1]

    # ------------------------------------------------------------------ changes

    def update(self, **settings: Any) -> set[str]:
        """Change settings here and below, and move buffers, all or nothing.

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
            If a value is refused or a key is known to nobody; nothing has changed then. Inside
            another update, keys known to nobody are left to the outermost one.
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
                # Sizes of a parent may follow where its child's buffers are.
                for factory in reversed(list(self._subtree())):
                    factory._refresh()
                self._refresh_ancestors()
            recognised |= set(locations)
            if outermost:
                for key in settings:
                    if key not in recognised:
                        known = self._known_keys()
                        raise FlowError(
                            f"{key}={settings[key]!r} is no setting of {label_of(self)} or its"
                            f" parts{nearest(key, known) or '; known: ' + ', '.join(known)}"
                        )
        return recognised

    def adopt(self, name: str, child: CUDAFactory[Any]) -> None:
        """Make ``child`` the child ``name``; the child it replaces leaves nothing here.

        Locations set on this component hold for the new child too. Adopting the child that is
        already there changes nothing.

        Raises
        ------
        FlowError
            If ``child`` is no factory, or already holds this one.
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
        """Take the child ``name`` away; without such a child nothing happens."""
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
        # While children are being arranged, whoever asked for it refreshes once they are all there.
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
    """Put everything back, from the roots down, if what happens inside is refused."""
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
    """Return the settings with ``changes``, refusals as one sentence naming the key."""
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
    # attrs puts the attribute, the type and the value behind the sentence.
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


# ---------------------------------------------------------------------- stable hashes


def stable_hash(value: Any) -> str:
    """Return the SHA-256 (hex) of a value's content, equal in every process.

    Parameters
    ----------
    value : object
        Plain values, enums, paths, NumPy scalars, dtypes and arrays, classes, containers, attrs
        instances, and anything with a ``content_hash`` or ``config_hash``.

    Raises
    ------
    FlowError
        If some part has no content that another process would find again, such as a function.
    """
    return hashlib.sha256(json.dumps(_stable(value)).encode()).hexdigest()


def _stable(value: Any) -> Any:
    """Return nested lists of strings, each tagged by type so that 1, 1.0, True and '1' differ."""
    match value:
        case type():
            return ["class", _qualified(value)]
        case Enum():
            return ["enum", _qualified(type(value)), value.name]
        case np.dtype():
            return ["dtype", value.descr if value.names else value.str]
        case np.ndarray() if not value.dtype.hasobject:
            digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
            return ["array", value.dtype.str, list(value.shape), digest]
        case np.generic():
            return ["scalar", value.dtype.str, value.tobytes().hex()]
        case None | bool() | int() | str():
            return [type(value).__name__, str(value)]
        case float():
            return ["float", value.hex()]
        case complex():
            return ["complex", value.real.hex(), value.imag.hex()]
        case bytes():
            return ["bytes", value.hex()]
        case PurePath():
            return ["path", value.as_posix()]
        case tuple() | list():
            return ["sequence", [_stable(item) for item in value]]
        case set() | frozenset():
            return ["set", sorted(json.dumps(_stable(item)) for item in value)]
        case Mapping():
            pairs = [[_stable(key), _stable(item)] for key, item in value.items()]
            return ["mapping", sorted(pairs, key=json.dumps)]
    for name in ("content_hash", "config_hash"):
        found = getattr(value, name, None)
        if found is not None:
            return ["content", _qualified(type(value)), found() if callable(found) else found]
    if attrs.has(type(value)):
        kept = [
            [one.name, _stable(getattr(value, one.name))]
            for one in attrs.fields(type(value))
            if one.metadata.get("hash", True) and not one.metadata.get("runtime", False)
        ]
        return ["attrs", _qualified(type(value)), kept]
    raise FlowError(
        f"{value!r} has no stable content to hash; give it a content_hash or mark its field"
        ' with metadata={"hash": False}'
    )


def _qualified(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
