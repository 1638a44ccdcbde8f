"""Extension points: targets, engines and storage clients by the name that a config gives them.

A new one is one file and one registration: a line here, a call of `Registry.register`, or an
entry point of an installed package. An implementation is imported when it is first used.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from cubie_flow.errors import FlowError, nearest


class Registry:
    """Implementations of one kind by name.

    Parameters
    ----------
    key : str
        Config key that chooses one, named in messages.
    group : str
        Group of the entry points by which installed packages register theirs.
    **built_in : str
        ``"module:attribute"`` of every implementation that this package has.
    """

    def __init__(self, key: str, group: str, **built_in: str) -> None:
        self.key, self.group = key, group
        self._known: dict[str, Any] = dict(built_in)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the implementations registered so far, without those of entry points."""
        return tuple(self._known)

    def register(self, name: str, implementation: Any) -> None:
        """Add an implementation.

        Parameters
        ----------
        name : str
            What the config key is set to.
        implementation : object
            The implementation, or a text ``"module:attribute"`` that is imported on first use.

        Raises
        ------
        FlowError
            If the name is taken.
        """
        if name in self._known:
            raise FlowError(f"{self.key}={name} is already registered; unregister it first")
        self._known[name] = implementation

    def unregister(self, name: str) -> None:
        """Remove an implementation; an unknown name is ignored."""
        self._known.pop(name, None)

    def get(self, name: str) -> Any:
        """Return the implementation of a name.

        Raises
        ------
        FlowError
            If the name is unknown.
        ImportError
            If its module needs a package that is not installed.
        """
        self.check(name)
        implementation = self._known[name]
        if isinstance(implementation, str):
            module, _, attribute = implementation.partition(":")
            implementation = self._known[name] = getattr(import_module(module), attribute)
        return implementation

    def check(self, name: str, *more: str) -> None:
        """Refuse a name that is neither registered nor among `more`.

        Raises
        ------
        FlowError
            Naming the key, the allowed names and the nearest of them.
        """
        if name not in self._known and name not in more:
            # Scanning installed packages is slow, so it is done for an unknown name only.
            from importlib.metadata import entry_points

            for entry in entry_points(group=self.group):
                self._known.setdefault(entry.name, entry.value)
        if name not in self._known and name not in more:
            allowed = (*more, *self._known)
            raise FlowError(
                f"{self.key} is '{name}'; it must be one of {', '.join(allowed)}"
                f"{nearest(name, allowed)}"
            )

    def validator(self, *more: str) -> Callable[[object, Any, str], None]:
        """Return an attrs validator that accepts the registered names and `more`."""
        return lambda _instance, _attribute, value: self.check(value, *more)


#: Each is a `cubie_flow.kernels.targets.target.Target`.
TARGETS = Registry(
    "target.kind",
    "cubie_flow.targets",
    cpu="cubie_flow.kernels.targets.cpu:CpuTarget",
    cuda="cubie_flow.kernels.targets.cuda:CudaTarget",
    simulator="cubie_flow.kernels.targets.simulator:SimulatorTarget",
)
#: Each is a function ``(EngineOptions) -> Engine``, see `cubie_flow.engines.base`.
ENGINES = Registry(
    "engine.kind",
    "cubie_flow.engines",
    local="cubie_flow.engines.local:make_local",
    dask="cubie_flow.engines.dask:make_dask",
)
#: Each is a `cubie_flow.storage.client.StorageClient`.
CLIENTS = Registry(
    "storage.client",
    "cubie_flow.storage_clients",
    fsspec="cubie_flow.storage.fsspec_client:FsspecClient",
    obstore="cubie_flow.storage.obstore_client:ObstoreClient",
    icechunk="cubie_flow.storage.icechunk_client:IcechunkClient",
)
