"""The batch kernel: one compiled program that integrates every run of a batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve, field, frozen, validators

from cubie_flow.errors import FlowError, between, nearest, one_of
from cubie_flow.expressions.block import UNROLL_LIMIT, flattened
from cubie_flow.expressions.dialect import ARENAS, Dialect, Place
from cubie_flow.integrators.run import RunSettings, SingleIntegratorRun
from cubie_flow.integrators.tolerances import Tolerances
from cubie_flow.kernels.cache import KernelCache, source_digest
from cubie_flow.kernels.launch import BatchResult, Launch
from cubie_flow.kernels.targets.detect import cuda_devices, toolkit_installed
from cubie_flow.kernels.targets.target import BuildResult, Target
from cubie_flow.memory import (
    BlockFit,
    CUDAFactory,
    Layout,
    buffer_registry,
    fit_block,
    padded_stride_bytes,
)
from cubie_flow.registries import TARGETS

if TYPE_CHECKING:
    from cubie_flow.kernels.targets.cuda_code import CudaCode

Array = Any
AUTO = "auto"


@frozen
class BatchSolverConfig:
    """Compile-time settings of the batch kernel; sizes of memory are not among them.

    Parameters
    ----------
    target : str
        A name of `cubie_flow.registries.TARGETS`, or ``auto``: ``cuda`` with a usable GPU, else
        ``cpu``.
    precision : {"float32", "float64"}
    lanes : int, optional
        Runs that a CPU core integrates together, a power of two up to 64; None chooses.
    math : {"portable", "native"}
        Elementary functions on CUDA: our polynomials, which give the bits of the CPU, or libdevice.
    arch : str, optional
        CUDA architecture to compile for, such as ``sm_90``; None asks the device.
    block_size : int
        Threads per CUDA block, before fitting shared memory.
    device : int
        Number of the GPU.
    """

    target: str = field(default=AUTO, validator=TARGETS.validator(AUTO))
    precision: str = field(default="float64", validator=one_of("float32", "float64"))
    lanes: int | None = field(  # type: ignore[assignment]
        default=None,
        validator=validators.optional(one_of(1, 2, 4, 8, 16, 32, 64)),
        metadata={"key": "target.lanes"},
    )
    math: str = field(
        default="portable",
        validator=one_of("portable", "native"),
        metadata={"key": "target.math"},
    )
    arch: str | None = None
    block_size: int = field(
        default=128,
        validator=between(0, 1024, "a whole number from 1 to 1024"),
        metadata={"key": "target.block_size"},
    )
    device: int = field(
        default=0,
        validator=between(-1, 2**31, "a whole number of at least 0"),
        metadata={"key": "target.device"},
    )

    def resolved_target(self) -> str:
        """Return the target that ``auto`` stands for on this machine."""
        if self.target != AUTO:
            return self.target
        return "cuda" if cuda_devices() and toolkit_installed() else "cpu"


class BatchSolverKernel(CUDAFactory[BatchSolverConfig]):
    """Builds and launches the kernel of one `SingleIntegratorRun`.

    Sizes of memory are read from the buffer registry at each access.

    Parameters
    ----------
    run : RunSettings
    config : BatchSolverConfig, optional
    locations : mapping, optional
        ``{buffer: location}``.
    cache : KernelCache, optional

    Raises
    ------
    FlowError
        If a location is given for an unknown buffer, or is not possible.
    """

    def __init__(
        self,
        run: RunSettings,
        config: BatchSolverConfig | None = None,
        locations: Mapping[str, str] | None = None,
        cache: KernelCache | None = None,
    ) -> None:
        config = evolve(config or BatchSolverConfig(), precision=run.precision)
        #: Compiled kernels on disk; targets read and write it.
        self.cache = cache or KernelCache()
        #: Hash of the settings whose locations passed `check_locations`.
        self._checked = ""
        super().__init__(config)
        self.adopt("run", SingleIntegratorRun(run))
        if locations:
            known = [entry.name for entry in self.layout.entries]
            for name in locations:
                if name not in known:
                    raise FlowError(
                        f"buffers.{name} is not a buffer of this kernel (it has "
                        f"{', '.join(known)}){nearest(name, known)}"
                    )
            self.update(**{f"{name}_location": location for name, location in locations.items()})

    @property
    def run(self) -> SingleIntegratorRun:
        """The run that this kernel integrates."""
        return self.children["run"]  # type: ignore[return-value]

    @property
    def target(self) -> str:
        """The target this kernel is built for."""
        return self.settings.resolved_target()

    # memory

    @property
    def layout(self) -> Layout:
        """Every buffer of the tree with its address."""
        return buffer_registry.layout(self)

    def _region(self, arena: str) -> Any:
        return getattr(buffer_registry.get_child_allocators(self, self.run, "run"), arena)

    @property
    def shared_memory_elements(self) -> int:
        """Shared memory of one run, in elements of the working precision, without padding."""
        return int(self._region("shared").elements(self.settings.precision))

    @property
    def local_memory_elements(self) -> int:
        """Local memory of one run (persistent included), in elements of the precision."""
        precision = self.settings.precision
        return int(
            self._region("local").elements(precision)
            + self._region("persistent").elements(precision)
        )

    @property
    def shared_memory_bytes(self) -> int:
        """Bytes from one run's shared memory to the next: padded, host and device alike."""
        widest = self.layout.widest_dtype("shared")
        size = int(self._region("shared").bytes)
        return padded_stride_bytes(size, widest.itemsize) if widest is not None else size

    @property
    def arena_bytes(self) -> tuple[int, int, int]:
        """Bytes of a run's shared, local and persistent arena."""
        layout = self.layout
        shared, local, persistent = (layout.bytes(arena) for arena in ARENAS)
        return shared, local, persistent

    @property
    def places(self) -> dict[str, Place]:
        """Place of every buffer that is in memory, by name."""
        return {
            entry.name: Place(entry.arena, entry.offset, entry.dtype.name, entry.elements)  # type: ignore[arg-type]
            for entry in self.layout.entries
            if entry.arena in ARENAS
        }

    def fit_block(self, limit: int | None = None, registers: int = 0) -> BlockFit:
        """Return the largest block, up to the configured size, that fits.

        Parameters
        ----------
        limit : int, optional
            Bytes of shared memory that a block may use; None asks the target.
        registers : int
            Registers per thread, from the compiler; 0 fits by shared memory alone.

        Raises
        ------
        FlowError
            If one run does not fit.
        """
        if limit is None:
            limit = self._target.shared_memory_limit(self)
        return fit_block(
            self.settings.block_size,
            self.shared_memory_bytes,
            limit,
            layout=self.layout,
            registers=registers,
        )

    # building

    @property
    def dialect(self) -> Dialect:
        """How blocks are emitted for the target."""
        return self._target.dialect(self)

    @property
    def _target(self) -> Target:
        target: Target = TARGETS.get(self.target)()
        return target

    def build(self) -> BuildResult:
        """Build the program of the target, or load it from the cache."""
        self.check_locations()
        return self._target.build(self)

    def check_locations(self) -> None:
        """Refuse ``register`` for a buffer that must outlive a block.

        Raises
        ------
        FlowError
            Naming the buffer.
        """
        if self._checked == self.config_hash:
            return
        blocks, places = self.run.product, self.places
        external = {name for block in blocks.values() for name in block.externals}
        for block in blocks.values():
            written: set[str] = set()
            for statement in flattened(block.statements):
                reads, writes = statement.buffers()
                for name in reads:
                    if name not in places and name not in external and name not in written:
                        raise FlowError(
                            f"buffers.{name} is 'register', but its values outlive a step here; "
                            "it must be local or shared"
                        )
                written |= writes
        self._checked = self.config_hash

    def cache_key(self, dialect: Dialect, **more: Any) -> str:
        """Return the key of the compiled kernel in the cache.

        Parameters
        ----------
        dialect : Dialect
        **more
            What else the target's compiler depends on, as values that JSON holds.
        """
        parts = {
            "blocks": {name: block.digest for name, block in self.run.product.items()},
            "dialect": repr(
                (dialect.real, dialect.lanes, dialect.width, dialect.portable, UNROLL_LIMIT)
            ),
            "places": {n: repr(p) for n, p in self.places.items()},
            "sizes": self.arena_bytes,
            "source": source_digest(),
            **more,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def compile_cuda(self, arch: str, exact: bool = True) -> CudaCode:
        """Compile for a CUDA architecture, or load the code from the cache; no GPU is needed.

        Parameters
        ----------
        arch : str
            Such as ``"sm_90"``.
        exact : bool
            Whether to compile for `arch` itself; else for an architecture whose code runs on it.

        Returns
        -------
        CudaCode
            PTX, cubin and the compiler's statistics.

        Raises
        ------
        FlowError
            If the compiler is not installed or does not know `arch`.
        """
        from cubie_flow.kernels.targets.cuda import cuda_code

        return cuda_code(self, arch, exact)[0]

    # running

    def run_time_settings(self, tolerances: Tolerances) -> Array:
        """Return the tolerances and step bounds as the blocks read them.

        Raises
        ------
        FlowError
            If a fixed-step method has no step, or a setting is out of range.
        """
        run, dtype = self.run, np.dtype(self.settings.precision)
        if not run.controller.adaptive and not (tolerances.dt and tolerances.dt > 0):
            raise FlowError(
                f"controller.dt is {tolerances.dt}; algorithm '{run.settings.algorithm}' takes "
                "fixed steps here and needs a positive step size, such as controller.dt=0.01"
            )
        if dtype == np.float32 and tolerances.max_steps > 2**24:
            raise FlowError(
                f"controller.max_steps is {tolerances.max_steps}; float32 counts up to {2**24}, "
                "so lower it or use precision=float64"
            )
        return tolerances.vector(run.settings.system.states, dtype)

    def solve(
        self,
        columns: Mapping[str, Array],
        count: int,
        tolerances: Tolerances,
        times: Array | None = None,
        threads: int = 1,
        tick: Callable[[int], None] | None = None,
    ) -> BatchResult:
        """Integrate `count` runs.

        Parameters
        ----------
        columns : mapping
            For every varied quantity its values, shape (count,).
        count : int
            Number of runs.
        tolerances : Tolerances
        times : ndarray, optional
            Times to sample at, relative to the start, increasing; needed when the run samples.
        threads : int
            CPU threads.
        tick : callable, optional
            Called several times per second with the number of runs started.

        Raises
        ------
        FlowError
            If a fixed-step method has no step, or a setting is out of range.
        """
        return self.launch(tolerances, times, threads).solve(columns, count, tick)

    def launch(
        self, tolerances: Tolerances, times: Array | None = None, threads: int = 1
    ) -> Launch:
        """Return a launcher for batches of any size with these settings; builds the kernel.

        Parameters
        ----------
        tolerances : Tolerances
        times : ndarray, optional
            Times to sample at, relative to the start, increasing; needed when the run samples.
        threads : int
            CPU threads.

        Raises
        ------
        FlowError
            If a fixed-step method has no step, or a setting is out of range.
        """
        settings = self.run_time_settings(tolerances)
        return Launch(self.product.program, self.run, settings, times, threads)
