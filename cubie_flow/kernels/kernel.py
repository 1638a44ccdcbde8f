"""The batch kernel: one compiled program that integrates every run of a batch."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve, field, frozen, validators

from cubie_flow.errors import FlowError, between, nearest, one_of
from cubie_flow.expressions.block import UNROLL_LIMIT, Block, flattened
from cubie_flow.expressions.dialect import ARENAS, Dialect, Place
from cubie_flow.integrators.run import RunSettings, SingleIntegratorRun
from cubie_flow.integrators.tolerances import Tolerances
from cubie_flow.kernels.cache import KernelCache, source_digest
from cubie_flow.kernels.launch import BatchResult, Launch
from cubie_flow.kernels.targets.batch import Program
from cubie_flow.kernels.targets.detect import (
    cuda_devices,
    install_hint,
    toolkit_installed,
)
from cubie_flow.memory import (
    BlockFit,
    CUDAFactory,
    Layout,
    buffer_registry,
    fit_block,
    padded_stride_bytes,
)

if TYPE_CHECKING:
    from cubie_flow.kernels.targets.cpu import CpuProgram
    from cubie_flow.kernels.targets.cuda import CudaCode

Array = Any
TARGETS = ("auto", "cpu", "cuda", "simulator")
#: Dynamic shared memory a block gets without opting in, on every device.
SHARED_LIMIT = 48 * 1024
#: What decides, beside our own source, what a kernel compiles to on CUDA.
_CUDA_WHEELS = (
    "numba", "llvmlite", "numba-cuda", "cuda-bindings", "nvidia-nvvm", "nvidia-nvjitlink",
    "nvidia-cuda-nvcc-cu12", "nvidia-nvjitlink-cu12",
)  # fmt: skip


def _optional(validator: Any) -> Any:
    return validators.optional(validator)


@frozen
class BatchSolverConfig:
    """Compile-time choices of the batch kernel; it holds no sizes of memory.

    Parameters
    ----------
    target : {"auto", "cpu", "cuda", "simulator"}
        ``auto`` is ``cuda`` where there is a usable GPU, else ``cpu``.
    precision : {"float32", "float64"}
    lanes : int, optional
        Runs side by side on a CPU core, a power of two up to 64; None chooses.
    math : {"portable", "native"}
        Elementary functions on CUDA: our polynomials, which give a CPU's bits, or libdevice.
    arch : str, optional
        CUDA architecture to compile for, such as ``sm_90``; None asks the device.
    block_size : int
        Threads a CUDA block before fitting shared memory.
    device : int
        Which GPU.
    """

    target: str = field(default="auto", validator=one_of(*TARGETS), metadata={"key": "target.kind"})
    precision: str = field(default="float64", validator=one_of("float32", "float64"))
    lanes: int | None = field(
        default=None,
        validator=_optional(one_of(1, 2, 4, 8, 16, 32, 64)),
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
        if self.target != "auto":
            return self.target
        return "cuda" if cuda_devices() and toolkit_installed() else "cpu"


@frozen(eq=False)
class BuildResult:
    """A built kernel and how it came about.

    Attributes
    ----------
    program : Program
    seconds : float
        Time to build it.
    cached : bool
        Whether it came from the cache.
    figures : dict
        Bytes of machine code and constants, on CUDA also registers, stack and spills; empty in
        the simulator.
    """

    program: Program
    seconds: float
    cached: bool
    figures: dict[str, int]


class BatchSolverKernel(CUDAFactory[BatchSolverConfig]):
    """Builds and launches the kernel of one `SingleIntegratorRun`.

    Sizes of memory come from the registry at each access.

    Parameters
    ----------
    run : RunSettings
    config : BatchSolverConfig
    locations : mapping, optional
        ``{buffer: location}``.
    cache : KernelCache, optional
    """

    def __init__(
        self,
        run: RunSettings,
        config: BatchSolverConfig | None = None,
        locations: Mapping[str, str] | None = None,
        cache: KernelCache | None = None,
    ) -> None:
        config = evolve(config or BatchSolverConfig(), precision=run.precision)
        self._cache = cache or KernelCache()
        #: Hash of the settings whose locations were found in order.
        self._checked = ""
        super().__init__(config)
        self.adopt("run", SingleIntegratorRun(run))
        if locations:
            known = [entry.name for entry in self.layout.entries]
            for name in locations:
                if name not in known:
                    raise FlowError(
                        f"buffers.{name} is no buffer of this kernel (there are "
                        f"{', '.join(known)}){nearest(name, known)}"
                    )
            self.update(**{f"{name}_location": place for name, place in locations.items()})

    @property
    def run(self) -> SingleIntegratorRun:
        """The run this kernel is made of."""
        return self.children["run"]  # type: ignore[return-value]

    @property
    def target(self) -> str:
        """The target this kernel is built for."""
        return self.settings.resolved_target()

    # memory

    @property
    def layout(self) -> Layout:
        """Every buffer of the tree with its place."""
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
        """Place of every buffer that lives in memory, by name."""
        return {
            entry.name: Place(entry.arena, entry.offset, entry.dtype.name, entry.elements)  # type: ignore[arg-type]
            for entry in self.layout.entries
            if entry.arena in ARENAS
        }

    def fit_block(self, limit: int | None = None) -> BlockFit:
        """Return the block size that fits shared memory.

        Parameters
        ----------
        limit : int, optional
            Bytes a block may have; None asks the device.
        """
        if limit is None:
            limit = SHARED_LIMIT
            if self.target == "cuda" and cuda_devices():
                from cubie_flow.kernels.targets.cuda import shared_memory_limit

                limit = shared_memory_limit(self.settings.device)
        return fit_block(
            self.settings.block_size, self.shared_memory_bytes, limit, layout=self.layout
        )

    # building

    @property
    def dialect(self) -> Dialect:
        """How blocks are emitted for the target."""
        s, target = self.settings, self.target
        if target == "cpu":
            from cubie_flow.kernels.targets.cpu import vector_layout

            run = self.run
            states = len(run.settings.system.states)
            leaping, short = (
                run.loop.batches_steps(run.step, run.controller),
                run.step.evaluations[0] <= 4,
            )
            lanes, width = vector_layout(s.precision, states, run.step.light, leaping, short)
            return Dialect(s.precision, s.lanes or lanes, vector=width)
        return Dialect(s.precision, 1, shared_space=3, portable=s.math == "portable")

    def build(self) -> BuildResult:
        started = perf_counter()
        blocks = self.run.product
        dialect, places, sizes = self.dialect, self.places, self.arena_bytes
        self.check_locations()
        if self.target == "cpu":
            loaded, cached = self._build_cpu(blocks, dialect, places, sizes)
            return BuildResult(loaded, perf_counter() - started, cached, loaded.code.figures())
        if self.target == "simulator":
            _require_toolkit("target.kind=simulator")
            from cubie_flow.kernels.targets.simulator import SimulatorProgram

            program = SimulatorProgram(
                blocks, dialect, places, sizes, self.shared_memory_bytes, self.settings.block_size
            )
            return BuildResult(program, perf_counter() - started, False, {})
        return self._build_cuda(started)

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

    def _key(self, dialect: Dialect, **more: Any) -> str:
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

    def _build_cpu(
        self,
        blocks: Mapping[str, Block],
        dialect: Dialect,
        places: Mapping[str, Place],
        sizes: tuple[int, int, int],
    ) -> tuple[CpuProgram, bool]:
        from cubie_flow.kernels.targets import cpu

        key = self._key(
            dialect, processor=cpu.processor(), compilers=_versions("numba", "llvmlite", "numpy")
        )
        found = self._cache.get(key)
        if found is not None:
            header, parts = found
            code = cpu.CpuCode(parts["object"], header["entry"])
        else:
            code = cpu.compile_code(blocks, dialect, places)
            self._cache.put(key, {"entry": code.entry, "target": "cpu"}, {"object": code.code})
        return cpu.CpuProgram(code, dialect, sizes), found is not None

    def compile_cuda(self, arch: str) -> CudaCode:
        """Compile for a CUDA architecture, or take it from the cache; no GPU needed.

        Parameters
        ----------
        arch : str
            Such as ``"sm_90"``.

        Returns
        -------
        CudaCode
            PTX, cubin and the compiler's figures.

        Raises
        ------
        FlowError
            If the compiler is not installed or does not know `arch`.
        """
        return self._cuda_code(arch)[0]

    def _cuda_code(self, arch: str) -> tuple[CudaCode, bool]:
        """Return the code for an architecture, and whether it came from the cache."""
        _require_toolkit("compiling for CUDA")
        dialect = evolve(
            self.dialect, lanes=1, shared_space=3, portable=self.settings.math == "portable"
        )
        key = self._key(
            dialect, arch=arch, stride=self.shared_memory_bytes, compilers=_versions(*_CUDA_WHEELS)
        )

        def compile_it() -> CudaCode:
            from cubie_flow.kernels.targets import cuda_compile as compiler

            return compiler.compile_kernel(
                self.run.product,
                evolve(dialect, library=compiler.libdevice, intrinsics=compiler.rounding),
                self.places,
                self.arena_bytes,
                self.shared_memory_bytes,
                arch,
            )

        return self._cached_cuda(key, arch, compile_it)

    def _turner(self, arch: str) -> CudaCode | None:
        """Return the code that turns samples, if there are any."""
        if not self.run.loop.settings.sampling:
            return None
        bits = self.dialect.bits
        parts = ("transpose", bits, arch, source_digest(), _versions(*_CUDA_WHEELS))

        def compile_it() -> CudaCode:
            from cubie_flow.kernels.targets.cuda_compile import compile_turner

            return compile_turner(bits, arch)

        key = hashlib.sha256(repr(parts).encode()).hexdigest()
        return self._cached_cuda(key, arch, compile_it)[0]

    def _cached_cuda(
        self, key: str, arch: str, compile_it: Callable[[], CudaCode]
    ) -> tuple[CudaCode, bool]:
        from cubie_flow.kernels.targets.cuda import CompilerFigures, CudaCode

        found = self._cache.get(key)
        if found is not None:
            header, parts = found
            ptx = zlib.decompress(parts["ptx"]).decode()
            figures = CompilerFigures(**header["figures"])
            return CudaCode(ptx, parts["cubin"], header["entry"], arch, figures), True
        code = compile_it()
        header = {"entry": code.entry, "target": "cuda", "figures": code.figures.as_dict()}
        # PTX is text, ten times as large as it need be.
        packed = zlib.compress(code.ptx.encode(), 1)
        self._cache.put(key, header, {"cubin": code.cubin, "ptx": packed})
        return code, False

    def _build_cuda(self, started: float) -> BuildResult:
        _require_toolkit("target.kind=cuda")
        devices = cuda_devices()
        if len(devices) <= self.settings.device:
            raise FlowError(
                f"target.device is {self.settings.device}, but the driver offers {len(devices)} "
                "GPU(s); use target.kind=cpu, or task=doctor to see what is missing"
            )
        from cubie_flow.kernels.targets.cuda import CudaProgram

        arch = self.settings.arch or devices[self.settings.device].arch
        fit = self.fit_block()
        code, cached = self._cuda_code(arch)
        program = CudaProgram(
            code, fit.block_size, fit.shared_bytes, self.settings.device, self._turner(arch)
        )
        return BuildResult(program, perf_counter() - started, cached, code.figures.as_dict())

    # running

    def run_time_settings(self, tolerances: Tolerances) -> Array:
        """Return the settings of every run as blocks read them.

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
        tolerances : Tolerances
        times : ndarray, optional
            Times to sample at, relative to the start, increasing; needed when the run samples.
        threads : int
            CPU threads.
        tick : callable, optional
            Called now and then with the number of runs started.

        Raises
        ------
        FlowError
            If a fixed-step method has no step, or a setting is out of range.
        """
        return self.launch(tolerances, times, threads).solve(columns, count, tick)

    def launch(
        self, tolerances: Tolerances, times: Array | None = None, threads: int = 1
    ) -> Launch:
        """Return what solves batches of any size with these settings, built if need be.

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


def _require_toolkit(what: str) -> None:
    if not toolkit_installed():
        raise FlowError(f"{what} needs numba-cuda and its toolkit wheels: {install_hint()}")


@cache
def _versions(*packages: str) -> tuple[str, ...]:
    found = []
    for package in ("cubie-flow", *packages):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(package)
    return tuple(found)
