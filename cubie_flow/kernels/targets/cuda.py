"""The CUDA target: loading a cubin and running batches through the driver API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_bool, c_char, c_int64, c_void_p
from threading import Lock
from time import perf_counter
from typing import Any
from weakref import finalize

import numpy as np
from attrs import asdict, frozen

from cubie_flow.errors import FlowError
from cubie_flow.kernels.targets.batch import Batch
from cubie_flow.kernels.targets.result_pool import KeptMemory

Array = Any
#: Samples are turned in tiles: elements along an edge, their stride in shared memory, and rows that
#: a block of threads reads at once.
TILE, TILE_STRIDE, TILE_ROWS = 32, 33, 8


def _check(result: tuple[Any, ...]) -> Any:
    """Return what a driver call returns, or raise its error as one sentence."""
    from cuda.bindings import driver

    error, *values = result
    if error != driver.CUresult.CUDA_SUCCESS:
        _, text = driver.cuGetErrorString(error)
        raise FlowError(f"CUDA driver: {text.decode() if text else error}")
    return values[0] if len(values) == 1 else tuple(values)


@frozen
class CompilerFigures:
    """What ptxas reports of one kernel on one architecture.

    Attributes
    ----------
    registers : int
        Registers a thread.
    stack, spill_stores, spill_loads : int
        Bytes a thread.
    constant, code : int
        Bytes of constant memory and of machine code.
    """

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    constant: int
    code: int

    def as_dict(self) -> dict[str, int]:
        """Return the figures by name."""
        return asdict(self)


@frozen
class CudaCode:
    """Compiled kernel: PTX, cubin, entry name and the compiler's figures."""

    ptx: str
    cubin: bytes
    entry: str
    arch: str
    figures: CompilerFigures


@frozen(eq=False)
class Loaded:
    """A batch on the device.

    Attributes
    ----------
    launch : callable
        Starts the kernel and does not wait for it.
    fetch : callable
        Waits for it and writes the batch's arrays.
    """

    launch: Callable[[], None]
    fetch: Callable[[], None]


class CudaProgram:
    """A kernel loaded on one device.

    A large batch is cut into pieces: while one is integrated, the results of the one before are
    copied to the host. Samples are written with the run moving fastest, so that the threads of a
    warp write side by side, and are turned on the device.

    Parameters
    ----------
    code : CudaCode
        The kernel.
    block_size : int
        Threads a block, after fitting shared memory.
    shared_bytes : int
        Dynamic shared memory a block.
    device : int
    transpose : CudaCode, optional
        What turns samples, see `cuda_compile.compile_turner`; needed by a kernel that samples.

    Attributes
    ----------
    kernel : LoadedKernel
    """

    def __init__(
        self,
        code: CudaCode,
        block_size: int,
        shared_bytes: int,
        device: int = 0,
        transpose: CudaCode | None = None,
    ) -> None:
        from cuda.bindings import driver

        _check(driver.cuInit(0))
        context = _check(driver.cuDevicePrimaryCtxRetain(_check(driver.cuDeviceGet(device))))
        _check(driver.cuCtxSetCurrent(context))
        function = _loaded_function(code)
        turning = None if transpose is None else _loaded_function(transpose)
        self.kernel = LoadedKernel(context, function, block_size, shared_bytes, turning)
        if shared_bytes > 48 * 1024:
            attribute = driver.CUfunction_attribute
            _check(
                driver.cuFuncSetAttribute(
                    function,
                    attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    shared_bytes,
                )
            )
        self._resident = resident_threads(device)
        self._slots = [_Slot(self.kernel), _Slot(self.kernel)]
        # One batch at a time: the slots are the program's own.
        self._busy = Lock()

    def memory(self) -> KeptMemory:
        """Return what makes arrays for results: the device reaches the large ones itself."""
        self.kernel.make_current()
        return pinned

    @contextmanager
    def loaded(self, batch: Batch, blocks: int | None = None) -> Iterator[Loaded]:
        """Hold a whole batch on the device.

        Parameters
        ----------
        batch : Batch
        blocks : int, optional
            Blocks to launch; their threads then take runs a grid apart. None gives every run a
            thread of its own.
        """
        self.kernel.make_current()
        slot = _Slot(self.kernel)
        slot.put(batch, 0, batch.count)

        def fetch() -> None:
            slot.get()
            slot.wait()

        try:
            yield Loaded(lambda: slot.launch(blocks), fetch)
        finally:
            slot.free()

    def run(self, batch: Batch) -> None:
        """Integrate every run of the batch."""
        with self._busy:
            self.kernel.make_current()
            began, kernel = perf_counter(), 0.0
            piece = self._piece(batch)
            starts = range(0, batch.count, piece)
            try:
                for number, start in enumerate(starts):
                    slot = self._slots[number % 2]
                    kernel += slot.wait()
                    slot.put(batch, start, min(start + piece, batch.count))
                    slot.launch()
                    slot.get()
                    if batch.tick is not None:
                        batch.tick(start)
            finally:
                kernel += sum(slot.wait() for slot in self._slots)
            batch.measured["device_bytes"] = sum(slot.bytes for slot in self._slots)
            batch.measured["transfer_seconds"] = max(0.0, perf_counter() - began - kernel)
        if batch.tick is not None:
            batch.tick(batch.count)

    def _piece(self, batch: Batch) -> int:
        """Return how many runs are integrated at a time."""
        from cuda.bindings import driver

        free, _ = _check(driver.cuMemGetInfo())
        held = sum(slot.bytes for slot in self._slots)
        return piece_runs(batch.count, sum(_run_bytes(batch)), free + held, self._resident)

    def resident_blocks(self) -> int:
        """Return how many blocks of the kernel a multiprocessor holds, as the driver says."""
        from cuda.bindings import driver

        kernel = self.kernel
        found = driver.cuOccupancyMaxActiveBlocksPerMultiprocessor(
            kernel.function, kernel.block_size, kernel.shared_bytes
        )
        return int(_check(found))


def piece_runs(count: int, each: int, free: int, resident: int) -> int:
    """Return how many runs of a batch are on the device at a time; two such pieces are.

    Parameters
    ----------
    count : int
        Runs of the batch.
    each : int
        Bytes of a run on the device.
    free : int
        Bytes that the device has for the batch.
    resident : int
        Threads that the device holds at once.

    Raises
    ------
    FlowError
        If not even one run fits.
    """
    fitting = int(DEVICE_FRACTION * free / 2) // each
    if fitting < 1:
        raise FlowError(
            f"one run takes {each:,} bytes on the GPU, which has {free:,} bytes free; save fewer "
            "times or variables"
        )
    pieces = max(1, count * each // PIECE_BYTES)
    # Smaller pieces would leave part of the device idle.
    wanted = max(resident, -(-count // pieces))
    return min(fitting, wanted, count)


@frozen(eq=False)
class LoadedKernel:
    """Loaded functions of a context, and how the kernel is launched."""

    context: Any
    function: Any
    block_size: int
    shared_bytes: int
    transpose: Any

    def make_current(self) -> None:
        """Make the context that of the calling thread."""
        from cuda.bindings import driver

        _check(driver.cuCtxSetCurrent(self.context))


#: Part of the free device memory that a batch may take.
DEVICE_FRACTION = 0.8
#: Bytes on the device above which a batch is cut into pieces.
PIECE_BYTES = 64 << 20


def _run_bytes(batch: Batch) -> tuple[int, int, int, int]:
    """Return a run's bytes on the device: inputs, finals, counts, and samples."""
    real = batch.finals.itemsize
    sampled = len(batch.samples) * batch.time_count if batch.time_count else 0
    turned = 2 if batch.time_count > 1 else 1
    return (
        real * len(batch.inputs),
        real * len(batch.finals),
        batch.counts.itemsize * len(batch.counts),
        real * sampled * turned,
    )


class _Slot:
    """A stream and device memory for one piece of a batch at a time."""

    def __init__(self, kernel: LoadedKernel) -> None:
        from cuda.bindings import driver

        self._kernel = kernel
        self._stream = _check(driver.cuStreamCreate(0))
        self._events = [_check(driver.cuEventCreate(0)) for _ in range(2)]
        #: Addresses of the slab, none or one; a list, so that it can be freed without the slot.
        self._slabs: list[int] = []
        self.bytes = 0
        self._sent: Array = np.empty(0, np.uint8)
        self._flying = False
        finalize(self, _release, kernel, self._stream, self._events, self._slabs)

    def free(self) -> None:
        """Give the memory back."""
        from cuda.bindings import driver

        while self._slabs:
            driver.cuMemFree(self._slabs.pop())
        self.bytes = 0

    def put(self, batch: Batch, start: int, stop: int) -> None:
        """Begin to send the runs from `start` to before `stop`."""
        from cuda.bindings import driver

        self._batch, self._start, self._count = batch, start, stop - start
        n, real = self._count, batch.finals.dtype
        shared = np.concatenate([batch.settings, batch.times, batch.initial]).astype(real)
        inputs, finals, counts, samples = (size * n for size in _run_bytes(batch))
        turned = samples // 2 if batch.time_count > 1 else 0
        places = [0]
        for size in (inputs, shared.nbytes, finals, counts, samples - turned, turned):
            places.append(places[-1] + -(-max(size, 8) // 256) * 256)
        if places[-1] > self.bytes:
            self.free()
            self._slabs.append(int(_check(driver.cuMemAlloc(places[-1]))))
            self.bytes = places[-1]
        self._at = [self._slabs[0] + place for place in places[:-1]]
        # Packed, so that one copy sends it all.
        upload = places[1] + shared.nbytes
        if self._sent.nbytes < upload:
            self._sent = pinned.empty(upload, np.uint8)
        sent = self._sent
        sent[:inputs].view(real).reshape(len(batch.inputs), n)[:] = batch.inputs[:, start:stop]
        sent[places[1] : upload].view(real)[:] = shared
        _check(driver.cuMemcpyHtoDAsync(self._at[0], sent.ctypes.data, upload, self._stream))
        self._flying = True

    def launch(self, blocks: int | None = None) -> None:
        """Begin to integrate."""
        from cuda.bindings import driver

        batch, kernel, n = self._batch, self._kernel, self._count
        inputs, shared, finals, counts, samples, _ = self._at
        size = batch.finals.itemsize
        times = shared + size * len(batch.settings)
        initial = times + size * len(batch.times)
        values = (
            n, blocks is not None, inputs, initial, shared, times, batch.time_count, samples,
            n * batch.time_count, 1, n, finals, counts,
        )  # fmt: skip
        kinds = (c_int64, c_bool, *[c_void_p] * 4, c_int64, c_void_p, *[c_int64] * 3)
        kinds += (c_void_p, c_void_p)
        grid = (blocks or -(-n // kernel.block_size), 1, 1)
        block = (kernel.block_size, 1, 1)
        _check(driver.cuEventRecord(self._events[0], self._stream))
        _check(
            driver.cuLaunchKernel(
                kernel.function, *grid, *block, kernel.shared_bytes, self._stream,
                (values, kinds), 0,
            )
        )  # fmt: skip
        _check(driver.cuEventRecord(self._events[1], self._stream))

    def get(self) -> None:
        """Begin to turn the samples and to fetch everything."""
        batch, n, start = self._batch, self._count, self._start
        *_, finals, counts, samples, turned = self._at
        size, times = batch.finals.itemsize, batch.time_count
        if times > 1:
            self._turn(samples, turned, len(batch.samples))
            samples = turned
        if times:
            self._fetch(batch.samples, samples, size * times * n, size * times * start)
        self._fetch(batch.finals, finals, size * n, size * start)
        self._fetch(batch.counts, counts, 4 * n, 4 * start)

    def _turn(self, source: int, target: int, rows: int) -> None:
        from cuda.bindings import driver

        assert self._kernel.transpose is not None
        n, times = self._count, self._batch.time_count
        values = (n, times, rows, source, target)
        kinds = (*[c_int64] * 3, c_void_p, c_void_p)
        grid = (-(-n // TILE), min(-(-times // TILE), 65535), min(rows, 65535))
        _check(
            driver.cuLaunchKernel(
                self._kernel.transpose,
                *grid,
                TILE,
                TILE_ROWS,
                1,
                0,
                self._stream,
                (values, kinds),
                0,
            )
        )

    def _fetch(self, host: Array, source: int, width: int, offset: int) -> None:
        """Copy rows of `width` bytes to `offset` bytes into each row of a host array."""
        from cuda.bindings import driver

        copy = driver.CUDA_MEMCPY2D()
        copy.srcMemoryType = driver.CUmemorytype.CU_MEMORYTYPE_DEVICE
        copy.srcDevice, copy.srcPitch = source, width
        copy.dstMemoryType = driver.CUmemorytype.CU_MEMORYTYPE_HOST
        copy.dstHost = host.ctypes.data + offset
        copy.dstPitch = host.nbytes // len(host)
        copy.WidthInBytes, copy.Height = width, len(host)
        _check(driver.cuMemcpy2DAsync(copy, self._stream))

    def wait(self) -> float:
        """Wait for what was begun; return the seconds in the kernel."""
        from cuda.bindings import driver

        if not self._flying:
            return 0.0
        self._flying = False
        _check(driver.cuStreamSynchronize(self._stream))
        return float(_check(driver.cuEventElapsedTime(*self._events))) / 1e3


def _release(kernel: LoadedKernel, stream: Any, events: list[Any], slabs: list[int]) -> None:
    """Free what a slot held; at the end of the process the driver may be gone already."""
    from cuda.bindings import driver

    driver.cuCtxSetCurrent(kernel.context)
    while slabs:
        driver.cuMemFree(slabs.pop())
    for event in events:
        driver.cuEventDestroy(event)
    driver.cuStreamDestroy(stream)


def _loaded_function(code: CudaCode) -> Any:
    """Return a function whose code stays loaded as long as the process."""
    from cuda.bindings import driver

    module = _check(driver.cuModuleLoadData(np.frombuffer(code.cubin, np.uint8).ctypes.data))
    return _check(driver.cuModuleGetFunction(module, code.entry.encode()))


class _Pinned(KeptMemory):
    """Host memory that a device copies to by itself."""

    IDLE = 2 << 30

    def _take(self, size: int) -> int | None:
        from cuda.bindings import driver

        portable = 1  # CU_MEMHOSTALLOC_PORTABLE: for every device of the process
        error, found = driver.cuMemHostAlloc(size, portable)
        # Where there is no more of it to be had, copies are only slower.
        return int(found) if error == driver.CUresult.CUDA_SUCCESS else None

    def _reach(self, block: int, size: int) -> Any:
        return (c_char * size).from_address(block)

    def _free(self, block: int) -> None:
        from cuda.bindings import driver

        driver.cuMemFreeHost(block)


#: Of the process: the driver takes long to make it.
pinned = _Pinned()


def resident_threads(device: int = 0) -> int:
    """Return how many threads a device holds at once at most."""
    from cuda.bindings import driver

    _check(driver.cuInit(0))
    handle, found = _check(driver.cuDeviceGet(device)), 1
    for name in ("MULTIPROCESSOR_COUNT", "MAX_THREADS_PER_MULTIPROCESSOR"):
        attribute = getattr(driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        found *= int(_check(driver.cuDeviceGetAttribute(attribute, handle)))
    return found


def shared_memory_limit(device: int = 0) -> int:
    """Return the bytes of shared memory a block may opt in to."""
    from cuda.bindings import driver

    _check(driver.cuInit(0))
    attribute = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    return int(_check(driver.cuDeviceGetAttribute(attribute, _check(driver.cuDeviceGet(device)))))
