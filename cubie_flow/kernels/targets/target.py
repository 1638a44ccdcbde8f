"""The contract of a target: how it emits blocks and builds the program of a batch kernel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from attrs import field, frozen

from cubie_flow.expressions.dialect import Dialect
from cubie_flow.kernels.targets.batch import Program

if TYPE_CHECKING:
    from cubie_flow.kernels.kernel import BatchSolverKernel


#: Bytes of dynamic shared memory that a block may use without opting in, on every GPU.
SHARED_LIMIT = 48 * 1024


@frozen(eq=False)
class BuildResult:
    """A built kernel and the cost of building it.

    Attributes
    ----------
    program : Program
    seconds : float
        Time to build it.
    cached : bool
        Whether it came from the cache.
    figures : dict
        Bytes of machine code and constants, on CUDA also registers, stack and spills; empty
        where nothing is compiled.
    """

    program: Program
    seconds: float
    cached: bool = False
    figures: dict[str, int] = field(factory=dict)


class Target(ABC):
    """Builds programs for one kind of device.

    It is made without arguments; `cubie_flow.registries.TARGETS` registers the class.
    """

    @abstractmethod
    def dialect(self, kernel: BatchSolverKernel) -> Dialect:
        """Return how the blocks of a kernel are emitted."""

    @abstractmethod
    def build(self, kernel: BatchSolverKernel) -> BuildResult:
        """Return the program of a kernel, compiled or loaded from ``kernel.cache``.

        Raises
        ------
        FlowError
            If a device or a package is missing.
        """

    def shared_memory_limit(self, kernel: BatchSolverKernel) -> int:
        """Return the bytes of shared memory that a block may use."""
        return SHARED_LIMIT


@cache
@cache
def package_versions(*packages: str) -> tuple[str, ...]:
    """Return the versions of this package and others, as a cache key states them."""
    versions = []
    for package in ("cubie-flow", *packages):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(package)
    return tuple(versions)
