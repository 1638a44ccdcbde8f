"""The CPU target: runs as lanes of SIMD registers, blocks of lanes over threads."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from attrs import frozen

from cubie_flow.expressions.block import Block
from cubie_flow.expressions.emit import Dialect, Place
from cubie_flow.kernels.targets.batch import Batch

#: Bytes by which a thread's arena is larger than its buffers, so that they can be aligned.
ALIGNMENT = 128


def usable_threads(limit: int | None = None) -> int:
    """Return the cores this process may use: affinity, cgroup quota, then `limit`."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return max(1, min(cores, limit) if limit else cores)


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


def default_lanes(real: str, states: int) -> int:
    """Return the lanes that keep a core busy: several vectors for small models, fewer for large.

    Measured on small to large Lorenz-96 systems; see ``docs/performance.md``.
    """
    several = 2 if states <= 32 else 1
    return several * vector_lanes(real)


@cache
def _pool() -> ThreadPoolExecutor:
    """Return the threads that all batches share: to start one costs as much as a small batch."""
    return ThreadPoolExecutor(4 * (os.cpu_count() or 1), "flow")


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
        self.arena_bytes = arena_bytes
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
            ctypes.c_int32, pointer, pointer, pointer, pointer, pointer, pointer, size, pointer,
            pointer, pointer, pointer, pointer, size, pointer, size, size, size, pointer, pointer,
        )(address)  # fmt: skip

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Any:
        """Return an array for results."""
        return np.empty(shape, dtype)

    def run(self, batch: Batch) -> None:
        """Integrate every run of the batch."""
        count, tick = batch.count, batch.tick
        counter = np.zeros(8, np.int64)
        lanes = self.dialect.lanes
        errors: list[int] = []
        stores: list[int] = []

        def work() -> None:
            offsets, total = [], 0
            for size in self.arena_bytes:
                offsets.append(total)
                total += -(-size * lanes // 64) * 64
            store = np.zeros(total + ALIGNMENT, np.uint8)
            stores.append(store.nbytes)
            base = -(-store.ctypes.data // 64) * 64
            runs = np.zeros(lanes, np.int64)
            result, error = ctypes.c_void_p(), ctypes.c_void_p()
            code = self._call(
                ctypes.addressof(result), ctypes.addressof(error),
                *(base + offset for offset in offsets), runs.ctypes.data, count,
                counter.ctypes.data, batch.inputs.ctypes.data, batch.initial.ctypes.data,
                batch.settings.ctypes.data, batch.times.ctypes.data, batch.time_count,
                batch.samples.ctypes.data,
                *batch.strides, batch.finals.ctypes.data, batch.counts.ctypes.data,
            )  # fmt: skip
            if code:
                errors.append(code)

        workers = [
            _pool().submit(work) for _ in range(max(1, min(batch.threads, -(-count // lanes))))
        ]
        try:
            for worker in workers:
                while not worker.done():
                    with suppress(TimeoutError):
                        worker.result(0.1)
                    if tick is not None:
                        tick(min(int(counter[0]), count))
                worker.result()
        except BaseException:
            counter[0] = 1 << 62
            wait(workers)
            raise
        assert not errors, errors
        batch.measured["buffer_bytes"] = sum(stores)
        batch.measured["threads"] = len(stores)
