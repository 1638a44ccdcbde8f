"""Loaded CPU kernels: threads that integrate the runs of a batch, slice by slice."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from time import perf_counter
from typing import Any

import llvmlite.binding as llvm
from attrs import frozen

from cubie_flow.expressions.dialect import Dialect
from cubie_flow.kernels.targets.batch import Batch
from cubie_flow.kernels.targets.result_pool import ResultPool
from cubie_flow.process.machine import installed_cores

#: Bytes by which a thread's arena exceeds its buffers, so that they can be aligned.
ALIGNMENT = 128
#: Approximate seconds after which an integrating thread checks whether it should stop.
SLICE_SECONDS = 0.05
#: Seconds that the calling thread integrates alone: waking another thread costs nearly as much.
ALONE_SECONDS = 40e-6
#: Attempts of the first slice, while their cost is unknown, and the growth from slice to slice.
FIRST_SLICE, GROWTH = 32, 16.0
#: Largest number of runs that a thread takes at once (a power of two), and the least number of
#: times it takes some. Neighbouring runs share cache lines, for which threads would contend.
CHUNK, TURNS = 64, 64


@cache
def _threads() -> ThreadPoolExecutor:
    """Return the threads that all batches share; starting one costs as much as a small batch."""
    return ThreadPoolExecutor(4 * installed_cores(), "flow")


if hasattr(os, "register_at_fork"):
    # A forked process inherits the pool but not its threads.
    os.register_at_fork(after_in_child=_threads.cache_clear)


@frozen
class CpuCode:
    """Object code of a batch loop and the name of its entry."""

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


class CpuProgram:
    """A loaded batch loop, ready to run batches.

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
        #: Seconds per attempt in the last slice; None before the first slice.
        self.pace: float | None = None
        #: Core seconds per run in the last batch; 0 before the first batch.
        self.cost = 0.0
        self._engine, self._call = _loaded(code)

    def memory(self) -> ResultPool:
        """Return the pool that result arrays come from."""
        return ResultPool()

    def run(self, batch: Batch) -> None:
        """Integrate every run of the batch.

        The calling thread integrates too, and starts others if there is enough work. It returns
        to Python many times per second, for signals and `Batch.tick`.
        """
        count, lanes, tick = batch.count, self.dialect.lanes, batch.tick
        work = _BatchWork(self, batch)
        others = min(batch.threads, -(-count // lanes)) - 1
        helpers: list[Future[None]] = []

        def start_helpers() -> list[Future[None]]:
            return [_threads().submit(work.finish) for _ in range(others)]

        last_tick = perf_counter()
        try:
            if count * self.cost > 2.0 * ALONE_SECONDS:
                helpers = start_helpers()
            for spent in work.slices():
                if not helpers and spent > ALONE_SECONDS and work.taken < count:
                    helpers = start_helpers()
                if tick is not None and perf_counter() - last_tick > SLICE_SECONDS:
                    tick(work.taken)
                    last_tick = perf_counter()
            # A helper that has not started by now is not needed.
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


class _BatchWork:
    """A batch whose runs are distributed to threads by a shared counter.

    Parameters
    ----------
    program : CpuProgram
    batch : Batch
    """

    def __init__(self, program: CpuProgram, batch: Batch) -> None:
        #: Threads that integrated runs.
        self.threads = 0
        #: Seconds that each thread spent, added when it ends.
        self.spent: list[float] = []
        self.stopped = False
        self._program, self._count = program, batch.count
        self._counter = (ctypes.c_int64 * 8)()
        turns = batch.count // (TURNS * batch.threads)
        chunk = 1 << (max(1, min(turns, CHUNK)).bit_length() - 1)
        # Keeps the arrays alive that these addresses point to.
        self._batch = batch
        self._outside = (
            batch.count, chunk, ctypes.addressof(self._counter), _address(batch.inputs),
            _address(batch.initial), _address(batch.settings), _address(batch.times),
            batch.time_count, _address(batch.samples), *batch.strides, _address(batch.finals),
            _address(batch.counts),
        )  # fmt: skip

    @property
    def taken(self) -> int:
        """Number of runs started so far."""
        return min(int(self._counter[0]), self._count)

    def slices(self) -> Iterator[float]:
        """Integrate runs until none is left; yield the seconds spent after every slice."""
        self.threads += 1
        program = self._program
        lanes, call = program.dialect.lanes, program._call
        store = (ctypes.c_char * program._store_bytes)()
        base = -(-ctypes.addressof(store) // 64) * 64
        # The run of every lane, the mask of occupied lanes, and the next run.
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
        """Integrate runs until none is left or the batch is stopped."""
        for _ in self.slices():
            if self.stopped:
                return


def _loaded(code: CpuCode) -> tuple[Any, Callable[..., int]]:
    """Load object code; return (the engine that keeps it loaded, its entry function)."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    # Code reaches its constants only within 2 GB. This memory manager keeps both together; the
    # default one would place them wherever the address space has holes.
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine, use_lmm=True)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code.code))
    engine.finalize_object()
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    # Numba's calling convention: two out-pointers (result, exception), then the arguments.
    entry = ctypes.CFUNCTYPE(
        ctypes.c_int32, pointer, pointer, pointer, pointer, pointer, pointer, size, size, size,
        pointer, pointer, pointer, pointer, pointer, size, pointer, size, size, size, pointer,
        pointer,
    )  # fmt: skip
    return engine, entry(engine.get_function_address(code.entry))


def _address(array: Any) -> int:
    """Return the address of an array's values; several times faster than ``array.ctypes.data``."""
    return ctypes.addressof((ctypes.c_char * 0).from_buffer(array))
