"""The CPU target: runs as lanes of SIMD registers, blocks of lanes over threads."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from time import perf_counter
from typing import Any

import llvmlite.binding as llvm
from attrs import frozen

from cubie_flow.expressions.block import Block
from cubie_flow.expressions.dialect import Dialect, Place
from cubie_flow.kernels.targets.batch import Batch
from cubie_flow.kernels.targets.result_pool import KeptMemory
from cubie_flow.process.machine import installed_cores

#: Bytes by which a thread's arena is larger than its buffers, so that they can be aligned.
ALIGNMENT = 128
#: Seconds after which a thread that integrates looks whether it is to stop, roughly.
SLICE_SECONDS = 0.05
#: Seconds that the calling thread integrates alone: to wake another one costs nearly as much.
ALONE_SECONDS = 40e-6
#: Attempts of the first slice, when nothing is known of their cost, and growth to the next.
FIRST_SLICE, GROWTH = 32, 16.0
#: Runs that a thread takes at once at most (a power of two), and how often it takes some at
#: least: runs side by side end in the same lines of memory, for which threads would contend.
CHUNK, TURNS = 64, 64


@cache
def processor() -> tuple[str, str]:
    """Return LLVM's name and features of this processor."""
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


@cache
def vector_bits() -> int:
    """Return the width of this processor's widest vector registers."""
    features = llvm.get_host_cpu_features()
    for name, width in (("avx512f", 512), ("avx2", 256), ("sve", 128), ("neon", 128)):
        if features.get(name):
            return width
    return 128


def vector_lanes(real: str) -> int:
    """Return the lanes one of this processor's vector registers holds."""
    return vector_bits() // (64 if real == "float64" else 32)


def vector_layout(
    real: str, states: int, light: bool, leaping: bool, short: bool
) -> tuple[int, int]:
    """Return the lanes that keep a core busy, and how many of them each instruction is for.

    Several vectors for small models, one for large. Of light steps the instructions of several
    vectors are mixed, since each waits for the one before. Measured; see ``docs/performance.md``.

    Parameters
    ----------
    real : {"float32", "float64"}
    states : int
    light : bool
        Whether a step has few operations.
    leaping : bool
        Whether steps are taken several at a time.
    short : bool
        Whether a step has few stages.
    """
    mixed = 2 if leaping or (light and vector_bits() >= 512) else 1
    if leaping and short:
        mixed = 4
    several = max(mixed, 2 if states <= 32 else 1)
    return several * vector_lanes(real), mixed * vector_lanes(real)


@cache
def _pool() -> ThreadPoolExecutor:
    """Return the threads that all batches share: to start one costs as much as a small batch."""
    return ThreadPoolExecutor(4 * installed_cores(), "flow")


if hasattr(os, "register_at_fork"):
    # A forked process has the pool but not its threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)


@frozen
class CpuCode:
    """Compiled driver: object code and the name of its entry."""

    code: bytes
    entry: str

    def figures(self) -> dict[str, int]:
        """Return the bytes of machine code and of constants, by name."""
        sizes = {"code": 0, "constant": 0}
        for section in llvm.ObjectFileRef.from_data(self.code).sections():
            name = (section.name() or b"").decode()
            for prefix, key in ((".text", "code"), (".rodata", "constant")):
                sizes[key] += section.size() if name.startswith(prefix) else 0
        return sizes


def compile_code(
    blocks: Mapping[str, Block], dialect: Dialect, places: Mapping[str, Place]
) -> CpuCode:
    """Compile the driver (imports numba)."""
    from cubie_flow.kernels.targets.cpu_compile import compile_driver

    return CpuCode(*compile_driver(blocks, dialect, places))


class CpuProgram:
    """Loaded driver, ready to run batches.

    Parameters
    ----------
    code : CpuCode
    dialect : Dialect
    arena_bytes : tuple of int
        Bytes of a run's shared, local and persistent arena.
    """

    def __init__(self, code: CpuCode, dialect: Dialect, arena_bytes: tuple[int, int, int]) -> None:
        self.code = code
        self.dialect = dialect
        padded = [-(-arena * dialect.lanes // 64) * 64 for arena in arena_bytes]
        self._offsets = [sum(padded[:number]) for number in range(len(padded))]
        self._store_bytes = sum(padded) + ALIGNMENT
        #: Seconds an attempt took in the last slice; None before there was one.
        self.pace: float | None = None
        #: Seconds of a core that a run took in the last batch; 0 before there was one.
        self.cost = 0.0
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
        # This memory manager keeps code and constants together; the code reaches its constants
        # only within 2 GB, and the default one places them where the address space has holes.
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine, use_lmm=True)
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(code.code))
        self._engine.finalize_object()
        address = self._engine.get_function_address(code.entry)
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        # Numba's own convention: two out-pointers (result, exception), then the arguments.
        self._call = ctypes.CFUNCTYPE(
            ctypes.c_int32, pointer, pointer, pointer, pointer, pointer, pointer, size, size, size,
            pointer, pointer, pointer, pointer, pointer, size, pointer, size, size, size, pointer,
            pointer,
        )(address)  # fmt: skip

    def memory(self) -> KeptMemory:
        """Return what makes arrays for results."""
        return KeptMemory()

    def run(self, batch: Batch) -> None:
        """Integrate every run of the batch.

        The calling thread takes part, and calls others if there is work for them. It returns to
        Python many times a second, for signals and `Batch.tick`.
        """
        count, lanes, tick = batch.count, self.dialect.lanes, batch.tick
        work = _Work(self, batch)
        others = min(batch.threads, -(-count // lanes)) - 1
        helpers: list[Future[None]] = []

        def call() -> list[Future[None]]:
            return [_pool().submit(work.finish) for _ in range(others)]

        told = perf_counter()
        try:
            if count * self.cost > 2.0 * ALONE_SECONDS:
                helpers = call()
            for spent in work.slices():
                if not helpers and spent > ALONE_SECONDS and work.taken < count:
                    helpers = call()
                if tick is not None and perf_counter() - told > SLICE_SECONDS:
                    tick(work.taken)
                    told = perf_counter()
            # Whoever has not begun by now is not needed.
            helpers = [helper for helper in helpers if not helper.cancel()]
            for helper in helpers:
                while tick is not None and not helper.done():
                    wait([helper], 2 * SLICE_SECONDS)
                    tick(work.taken)
                helper.result()
        except BaseException:
            work.stopped = True
            wait([helper for helper in helpers if not helper.cancel()])
            raise
        self.cost = sum(work.spent) / max(count, 1)
        batch.measured["buffer_bytes"] = work.threads * self._store_bytes
        batch.measured["threads"] = work.threads


class _Work:
    """A batch, whose runs threads take from a counter until there are no more.

    Parameters
    ----------
    program : CpuProgram
    batch : Batch
    """

    def __init__(self, program: CpuProgram, batch: Batch) -> None:
        #: Threads that took part.
        self.threads = 0
        #: Seconds that each of them spent, once it has ended.
        self.spent: list[float] = []
        self.stopped = False
        self._program, self._count = program, batch.count
        self._counter = (ctypes.c_int64 * 8)()
        turns = batch.count // (TURNS * batch.threads)
        chunk = 1 << (max(1, min(turns, CHUNK)).bit_length() - 1)
        # The batch keeps what these addresses are of.
        self._batch = batch
        self._outside = (
            batch.count, chunk, ctypes.addressof(self._counter), _address(batch.inputs),
            _address(batch.initial), _address(batch.settings), _address(batch.times),
            batch.time_count, _address(batch.samples), *batch.strides, _address(batch.finals),
            _address(batch.counts),
        )  # fmt: skip

    @property
    def taken(self) -> int:
        """Runs that were started."""
        return min(int(self._counter[0]), self._count)

    def slices(self) -> Iterator[float]:
        """Integrate runs until there are no more; yield the seconds spent, slice by slice."""
        self.threads += 1
        program = self._program
        lanes, call = program.dialect.lanes, program._call
        store = (ctypes.c_char * program._store_bytes)()
        base = -(-ctypes.addressof(store) // 64) * 64
        # The run of every lane, the lanes that are occupied, and the run that follows.
        runs = (ctypes.c_int64 * (lanes + 2))()
        result, error = ctypes.c_void_p(), ctypes.c_void_p()
        inside = (
            ctypes.addressof(result), ctypes.addressof(error),
            *[base + offset for offset in program._offsets], ctypes.addressof(runs),
        )  # fmt: skip
        pace, total = program.pace, 0.0
        attempts = FIRST_SLICE if pace is None else max(1, int(ALONE_SECONDS / pace))
        while True:
            began = perf_counter()
            code = call(*inside, attempts, *self._outside)
            assert not code, code
            spent = perf_counter() - began
            total += spent
            if not runs[lanes]:
                self.spent.append(total)
                return
            yield total
            program.pace = max(spent, 1e-9) / attempts
            goal = SLICE_SECONDS if total > ALONE_SECONDS else ALONE_SECONDS
            attempts = max(1, int(attempts * min(GROWTH, goal / max(spent, 1e-9))))

    def finish(self) -> None:
        """Integrate runs until there are no more, or the batch is stopped."""
        for _ in self.slices():
            if self.stopped:
                return


def _address(array: Any) -> int:
    """Return where an array's values are; several times quicker than ``array.ctypes.data``."""
    return ctypes.addressof((ctypes.c_char * 0).from_buffer(array))
