"""A stand-in for ``cuda.bindings.driver``: it keeps the documented rules and checks every call.

Addresses of device memory are invented, so that a host that reads or writes them fails. Streams
complete late: their work is done when someone waits for it, or as `Driver.progress` decides. Each
rule is from the CUDA Driver API documentation or the CUDA C++ Programming Guide, "Technical
Specifications per Compute Capability".

Kernels are interpreted: `Driver.kernels` maps the entry of a module to a `Kernel`.
"""

from __future__ import annotations

import ctypes
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from attrs import define, field

Array = Any
BASE = 0x7_0000_0000
PITCH = GRID_X = 2**31 - 1
GRID_YZ = 65535
BLOCK, BLOCK_Z = 1024, 64
FREE_SHARED = 48 * 1024
REGISTERS, REGISTERS_UNIT, PARTITIONS, WARP = 65536, 256, 4, 32
STICKY = (
    "CUDA_ERROR_ILLEGAL_ADDRESS", "CUDA_ERROR_LAUNCH_FAILED", "CUDA_ERROR_MISALIGNED_ADDRESS",
)  # fmt: skip
#: Calls that need a current context.
NEEDS_CONTEXT = {
    "cuMemGetInfo", "cuMemAlloc", "cuMemFree", "cuMemHostAlloc", "cuMemFreeHost", "cuStreamCreate",
    "cuStreamDestroy", "cuStreamSynchronize", "cuEventCreate", "cuEventDestroy", "cuEventRecord",
    "cuEventElapsedTime", "cuModuleLoadData", "cuModuleUnload", "cuModuleGetFunction",
    "cuFuncSetAttribute", "cuFuncGetAttribute", "cuLaunchKernel", "cuMemcpyHtoDAsync",
    "cuMemcpyDtoHAsync", "cuMemcpy2DAsync", "cuCtxPopCurrent", "cuCtxSynchronize",
    "cuOccupancyMaxActiveBlocksPerMultiprocessor",
}  # fmt: skip


class Failure(Exception):
    """Ends a call with a status."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@define(eq=False)
class Kernel:
    """A kernel that is interpreted.

    Attributes
    ----------
    run : callable
        Called with the driver, the values of the launch, its grid and block.
    registers, stack : int
        Of each thread.
    """

    run: Callable[..., None]
    registers: int = 32
    stack: int = 0


@define(eq=False)
class Function:
    """A function of a module in a context."""

    context: int
    kernel: Kernel
    shared: int = FREE_SHARED
    loaded: bool = True


@define(eq=False)
class Event:
    """An event, and the time at which it happened on its stream."""

    context: int
    recorded: bool = False
    at: float | None = None


@define(eq=False)
class Stream:
    """Work in order, done late."""

    context: int
    work: deque[Callable[[], None]] = field(factory=deque)


@define(eq=False)
class Device:
    """A GPU."""

    memory: int
    multiprocessors: int = 4
    threads: int = 2048
    shared: int = 99 * 1024
    capability: tuple[int, int] = (9, 0)
    stack: int = 0
    peak: int = 0


class Driver:
    """The driver of a few devices.

    Parameters
    ----------
    memory : int
        Bytes of each device.
    devices : int

    Attributes
    ----------
    kernels : dict
        Kernel by the entry of its module.
    fail : dict
        Status by number of the call, counted from 1 over all calls; or by (name, number of the
        call of this name).
    progress : callable, optional
        Called with every stream before each call; returns how much of its work is done then.
    asked : Counter
        Bytes that were asked for and not returned, by ``device`` and ``pinned``.
    calls : Counter
        Calls by name.
    """

    def __init__(self, memory: int = 1 << 30, devices: int = 1) -> None:
        self.devices = [Device(memory) for _ in range(devices)]
        self.kernels: dict[str, Kernel] = {}
        self.fail: dict[Any, str] = {}
        self.progress: Callable[[Stream], int] | None = None
        self.calls: Counter[str] = Counter()
        self.called = 0
        #: The status of every later call, after a fault of a kernel.
        self.broken = ""
        #: Returns how a kernel is interpreted, and its registers and stack.
        self.interpret: Callable[[Any], Callable[..., None]] = null_of
        self.figures: Callable[[Any], tuple[int, int]] = lambda kernel: (32, 0)
        #: Status of ``cuInit`` for a caller by ctypes.
        self.started = 0
        self._next = BASE
        self.slabs: dict[int, tuple[int, Array]] = {}
        self.pinned: dict[int, Any] = {}
        self.modules: set[int] = set()
        self.streams: set[Stream] = set()
        self.events: set[Event] = set()
        self._contexts = threading.local()
        self._clock = 0.0
        self._lock = threading.RLock()

    # state --------------------------------------------------------------------------------------

    @property
    def stack(self) -> list[int]:
        """The contexts of this thread, the current one last."""
        if not hasattr(self._contexts, "stack"):
            self._contexts.stack = []
        found: list[int] = self._contexts.stack
        return found

    @property
    def current(self) -> int:
        """The device whose context is current in this thread."""
        if not self.stack or self.stack[-1] is None:
            raise Failure("CUDA_ERROR_INVALID_CONTEXT")
        return self.stack[-1]

    @property
    def pending(self) -> int:
        """Pieces of work that no stream has done yet."""
        return sum(len(stream.work) for stream in self.streams)

    def taken(self, device: int) -> int:
        """Return the bytes of a device in use."""
        own = self.devices[device]
        slabs = sum(slab.nbytes for owner, slab in self.slabs.values() if owner == device)
        return slabs + own.stack * own.multiprocessors * own.threads

    def _note_peak(self, device: int) -> None:
        own = self.devices[device]
        own.peak = max(own.peak, self.taken(device))

    def call(self, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Do a call by name and return its status and values."""
        from cuda.bindings import driver

        with self._lock:
            self.called += 1
            self.calls[name] += 1
            try:
                if name in NEEDS_CONTEXT:
                    _ = self.current
                wanted = self.fail.get(self.called) or self.fail.get((name, self.calls[name]))
                # Work goes on while the host calls, whatever it calls.
                self._advance()
                if wanted:
                    if wanted in STICKY:
                        self.broken = wanted
                    raise Failure(wanted)
                if self.broken and name not in ("cuCtxPushCurrent", "cuCtxPopCurrent"):
                    raise Failure(self.broken)
                values = getattr(self, name)(*arguments)
            except Failure as failure:
                return getattr(driver.CUresult, failure.name), *[None] * VALUES.get(name, 0)
            if values is None:
                return (driver.CUresult.CUDA_SUCCESS,)
            if not isinstance(values, tuple):
                values = (values,)
            return driver.CUresult.CUDA_SUCCESS, *values

    def _advance(self) -> None:
        if self.progress is None:
            return
        for stream in list(self.streams):
            for _ in range(min(self.progress(stream), len(stream.work))):
                self._step(stream)

    def _step(self, stream: Stream) -> None:
        work = stream.work.popleft()
        try:
            if not self.broken:
                work()
        except Failure as failure:
            self.broken = failure.name
        self._clock += 1e-3

    def _finish(self, stream: Stream) -> None:
        while stream.work:
            self._step(stream)
        if self.broken:
            raise Failure(self.broken)

    def _own(self, *things: Any) -> None:
        """Refuse handles of another context than the current one, and dead ones."""
        for thing in things:
            alive = thing in self.streams or thing in self.events or getattr(thing, "loaded", False)
            if not alive or thing.context != self.current:
                raise Failure("CUDA_ERROR_INVALID_HANDLE")

    # compilers ----------------------------------------------------------------------------------

    def compiled(self, kernel: Any, arch: str, exact: bool = True) -> tuple[Any, bool]:
        """Return code of a batch kernel that this driver runs, in place of the compiler."""
        figures = self.figures(kernel)
        return self.code(self.interpret(kernel), *figures), False

    def compiled_transpose(self, kernel: Any, arch: str, exact: bool) -> Any:
        """Return code of the kernel that transposes, in place of the compiler."""
        return self.code(transpose_kernel(np.dtype(kernel.settings.precision).itemsize))

    def code(self, run: Callable[..., None], registers: int = 32, stack: int = 0) -> Any:
        """Return code whose entry is a kernel that is interpreted by `run`."""
        from cubie_flow.kernels.targets.cuda_code import CompilerStats, CudaCode

        entry = f"kernel{len(self.kernels)}"
        self.kernels[entry] = Kernel(run, registers, stack)
        figures = CompilerStats(registers, stack, 0, 0, 0, 0)
        return CudaCode("", b"cubin", entry, "sm_90", figures)

    # devices and contexts -----------------------------------------------------------------------

    def cuInit(self, flags: int) -> None:
        assert flags == 0

    def cuDeviceGet(self, number: int) -> int:
        if not 0 <= number < len(self.devices):
            raise Failure("CUDA_ERROR_INVALID_DEVICE")
        return number

    def cuDeviceGetAttribute(self, attribute: Any, device: int) -> int:
        own = self.devices[device]
        return {
            "MAX_THREADS_PER_MULTIPROCESSOR": own.threads,
            "MULTIPROCESSOR_COUNT": own.multiprocessors,
            "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": own.shared,
        }[attribute.name.removeprefix("CU_DEVICE_ATTRIBUTE_")]

    def cuDevicePrimaryCtxRetain(self, device: int) -> int:
        return device

    def cuCtxSetCurrent(self, context: int) -> None:
        self.stack[-1:] = [context]

    def cuCtxPushCurrent(self, context: int) -> None:
        self.stack.append(context)

    def cuCtxPopCurrent(self) -> int:
        return self.stack.pop()

    def cuCtxSynchronize(self) -> None:
        for stream in self.streams:
            if stream.context == self.current:
                self._finish(stream)

    # modules ------------------------------------------------------------------------------------

    def cuModuleLoadData(self, address: int) -> int:
        self._next += 1
        self.modules.add(self._next)
        return self._next

    def cuModuleUnload(self, module: int) -> None:
        assert not self.pending, "a module is unloaded while its kernels run"
        self.modules.remove(module)

    def cuModuleGetFunction(self, module: int, name: bytes) -> Function:
        assert module in self.modules
        return Function(self.current, self.kernels[name.decode()])

    def cuFuncSetAttribute(self, function: Function, name: Any, value: int) -> None:
        assert name.name == "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES"
        if value > self.devices[self.current].shared:
            raise Failure("CUDA_ERROR_INVALID_VALUE")
        function.shared = value

    def cuFuncGetAttribute(self, name: Any, function: Function) -> int:
        assert name.name == "CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES"
        return function.kernel.stack

    # memory -------------------------------------------------------------------------------------

    def cuMemGetInfo(self) -> tuple[int, int]:
        total = self.devices[self.current].memory
        return total - self.taken(self.current), total

    def cuMemAlloc(self, size: int) -> int:
        if size <= 0:
            raise Failure("CUDA_ERROR_INVALID_VALUE")
        if size > self.cuMemGetInfo()[0]:
            raise Failure("CUDA_ERROR_OUT_OF_MEMORY")
        # Far apart, so that no index of one array reaches another.
        self._next = (self._next + (1 << 40)) // 512 * 512
        self.slabs[self._next] = self.current, np.full(size, 0xFF, np.uint8)
        self._note_peak(self.current)
        return self._next

    def cuMemFree(self, address: int) -> None:
        # Freeing waits for all work of the context.
        for stream in self.streams:
            if stream.context == self.current:
                while stream.work:
                    self._step(stream)
        owner, _ = self.slabs.pop(address)
        assert owner == self.current, "memory is freed in the context of another device"

    def cuMemHostAlloc(self, size: int, flags: int) -> int:
        assert flags == 1, "only portable memory can be used with every device"
        block = (ctypes.c_char * size)()
        address = ctypes.addressof(block)
        self.pinned[address] = block
        return address

    def cuMemFreeHost(self, address: int) -> None:
        assert not self.pending, "page-locked memory is freed while it may be written"
        del self.pinned[address]

    def device_view(self, address: int, size: int | None = None) -> Array:
        """Return the bytes at an address: `size` of them, or all to the end of the allocation."""
        for start, (_, slab) in self.slabs.items():
            offset = address - start
            if 0 <= offset <= slab.nbytes:
                stop = slab.nbytes if size is None else offset + size
                if stop <= slab.nbytes:
                    return slab[offset:stop]
        raise Failure("CUDA_ERROR_ILLEGAL_ADDRESS")

    def _is_pinned(self, address: int) -> bool:
        return any(at <= address < at + ctypes.sizeof(b) for at, b in self.pinned.items())

    def _copy(self, stream: Stream, host: int, size: int, copy: Callable[[], None]) -> None:
        """Copy late between the device and page-locked memory, at once with other memory."""
        self._own(stream)
        assert size > 0
        if not self._is_pinned(host):
            self._finish(stream)
            copy()
        else:
            stream.work.append(copy)

    def cuMemcpyHtoDAsync(self, target: int, source: int, size: int, stream: Stream) -> None:
        def copy() -> None:
            ctypes.memmove(self.device_view(target, size).ctypes.data, source, size)

        self._copy(stream, source, size, copy)

    def cuMemcpyDtoHAsync(self, target: int, source: int, size: int, stream: Stream) -> None:
        def copy() -> None:
            ctypes.memmove(target, self.device_view(source, size).ctypes.data, size)

        self._copy(stream, target, size, copy)

    def cuMemcpy2DAsync(self, copy: Any, stream: Stream) -> None:
        width, pitch = copy.WidthInBytes, copy.dstPitch
        if not (0 < width <= min(copy.srcPitch, pitch) and max(copy.srcPitch, pitch) <= PITCH):
            raise Failure("CUDA_ERROR_INVALID_VALUE")
        source, host, rows = int(copy.srcDevice), int(copy.dstHost), copy.Height
        source_pitch = copy.srcPitch

        def rows_of() -> None:
            for row in range(rows):
                data = self.device_view(source + row * source_pitch, width)
                ctypes.memmove(host + row * pitch, data.ctypes.data, width)

        self._copy(stream, host, rows * width, rows_of)

    # streams ------------------------------------------------------------------------------------

    def cuStreamCreate(self, flags: int) -> Stream:
        stream = Stream(self.current)
        self.streams.add(stream)
        return stream

    def cuStreamDestroy(self, stream: Stream) -> None:
        self.streams.remove(stream)

    def cuStreamSynchronize(self, stream: Stream) -> None:
        self._own(stream)
        self._finish(stream)

    def cuEventCreate(self, flags: int) -> Event:
        event = Event(self.current)
        self.events.add(event)
        return event

    def cuEventDestroy(self, event: Event) -> None:
        self.events.remove(event)

    def cuEventRecord(self, event: Event, stream: Stream) -> None:
        self._own(event, stream)
        event.recorded, event.at = True, None

        def happen() -> None:
            event.at = self._clock

        stream.work.append(happen)

    def cuEventElapsedTime(self, first: Event, last: Event) -> float:
        self._own(first, last)
        if not (first.recorded and last.recorded):
            raise Failure("CUDA_ERROR_INVALID_HANDLE")
        if first.at is None or last.at is None:
            raise Failure("CUDA_ERROR_NOT_READY")
        return 1e3 * (last.at - first.at)

    # kernels ------------------------------------------------------------------------------------

    def cuLaunchKernel(
        self, function: Function, gx: int, gy: int, gz: int, bx: int, by: int, bz: int,
        shared: int, stream: Stream, parameters: Any, extra: int,
    ) -> None:  # fmt: skip
        self._own(function, stream)
        grid, block, kernel = (gx, gy, gz), (bx, by, bz), function.kernel
        threads = bx * by * bz
        fits = 1 <= gx <= GRID_X and min(gy, gz) >= 1 and max(gy, gz) <= GRID_YZ
        if not (fits and min(block) >= 1 and threads <= BLOCK and bz <= BLOCK_Z):
            raise Failure("CUDA_ERROR_INVALID_VALUE")
        if shared > function.shared:
            raise Failure("CUDA_ERROR_INVALID_VALUE")
        if block_registers(kernel.registers, threads) > REGISTERS:
            raise Failure("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES")
        own = self.devices[self.current]
        more = max(0, kernel.stack - own.stack) * own.multiprocessors * own.threads
        if more > self.cuMemGetInfo()[0]:
            raise Failure("CUDA_ERROR_OUT_OF_MEMORY")
        own.stack = max(own.stack, kernel.stack)
        self._note_peak(self.current)
        values, kinds = parameters
        assert len(values) == len(kinds)
        for value, kind in zip(values, kinds, strict=True):
            assert kind is not ctypes.c_int64 or -(2**63) <= value < 2**63
            assert kind is not ctypes.c_void_p or self.device_view(value) is not None
        stream.work.append(lambda: kernel.run(self, values, grid, block))


#: Number of values that a failed call returns.
VALUES = {"cuMemGetInfo": 2} | dict.fromkeys(
    ("cuDeviceGet", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain", "cuCtxPopCurrent",
     "cuModuleLoadData", "cuModuleGetFunction", "cuFuncGetAttribute", "cuMemAlloc",
     "cuMemHostAlloc", "cuStreamCreate", "cuEventCreate", "cuEventElapsedTime"), 1,
)  # fmt: skip


def block_registers(registers: int, threads: int) -> int:
    """Return the registers that a launch must find for a block (``cuda_occupancy.h``)."""
    warps = -(-threads // WARP)
    of_warp = -(-registers * WARP // REGISTERS_UNIT) * REGISTERS_UNIT
    return of_warp * -(-warps // PARTITIONS) * PARTITIONS


class Library:
    """What libcuda says of the devices of a `Driver`, to a caller by ctypes.

    Parameters
    ----------
    driver : Driver
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def cuInit(self, flags: int) -> int:
        return self._driver.started

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = 13000
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self._driver.devices)
        return 0

    def cuDeviceGet(self, device: Any, number: int) -> int:
        device._obj.value = number
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = b"stand-in"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        value._obj.value = self._driver.devices[device.value].capability[attribute - 75]
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, device: Any) -> int:
        size._obj.value = self._driver.devices[device.value].memory
        return 0


@contextmanager
def installed(driver: Driver) -> Iterator[Driver]:
    """Put the stand-in in the place of the driver for a block."""
    import gc

    import pytest
    from cuda.bindings import driver as real

    from cubie_flow.kernels.targets import cuda, cuda_api, detect

    with pytest.MonkeyPatch.context() as patch:
        for name in dir(Driver):
            if name.startswith("cu") and name[2].isupper():
                patch.setattr(real, name, lambda *a, name=name: driver.call(name, a))
        patch.setattr(
            real, "cuGetErrorString", lambda status: (0, status.name.lower().encode()), raising=True
        )
        patch.setattr(detect, "_nvidia_driver", lambda: Library(driver))
        patch.setattr(cuda_api, "_contexts", {})
        patch.setattr(cuda_api, "_stacks", {})
        patch.setattr(cuda_api, "pinned", pool := cuda_api._PinnedPool())
        patch.setattr("cubie_flow.kernels.targets.cuda_program.pinned", pool)
        patch.setattr("cubie_flow.kernels.targets.cuda_slot.pinned", pool)
        patch.setattr(cuda, "cuda_code", driver.compiled)
        patch.setattr(cuda, "_transpose_code", driver.compiled_transpose)
        detect.forget_devices()
        try:
            yield driver
        finally:
            # What the finalizers free belongs to this driver.
            from cubie_flow.study.kernel import _recent

            _recent.clear()
            gc.collect()
            detect.forget_devices()


# kernels ------------------------------------------------------------------------------------------


def transpose_kernel(item: int) -> Callable[..., None]:
    """Return the kernel that transposes samples of `item` bytes, see `make_transpose`."""

    def run(driver: Driver, values: Any, grid: Any, block: Any) -> None:
        runs, times, rows, source, target = values
        assert (grid[0] * block[0], block[0]) >= (runs, 32)
        words = np.dtype(f"u{item}")
        size = runs * times * rows * item
        samples = driver.device_view(source, size).view(words).reshape(rows, times, runs)
        turned = np.ascontiguousarray(samples.transpose(0, 2, 1)).reshape(-1)
        driver.device_view(target, size).view(words)[:] = turned

    return run


def arguments(driver: Driver, values: Any, real: Any) -> dict[str, Any]:
    """Return the arguments of a launch of the batch kernel by name, arrays as views of the device.

    An array ends where the next one begins, at the latest.
    """
    names = (
        "count", "persistent", "inputs", "initial", "settings", "times", "time_count", "samples",
        "rows", "run_stride", "time_stride", "finals", "counts",
    )  # fmt: skip
    found = dict(zip(names, values, strict=True))
    pointers = {n: found[n] for n in ("inputs", "initial", "settings", "times", "samples",
                                      "finals", "counts")}  # fmt: skip
    for name, address in pointers.items():
        later = [other for other in pointers.values() if other > address]
        view = driver.device_view(address)
        if later:
            view = view[: min(later) - address]
        kind = np.dtype(np.int32) if name == "counts" else np.dtype(real)
        found[name] = view[: view.nbytes // kind.itemsize * kind.itemsize].view(kind)
    return found


def null_kernel(real: Any, status: int = 0) -> Callable[..., None]:
    """Return a kernel whose runs all end at once: zeros, and a status."""

    def run(driver: Driver, values: Any, grid: Any, block: Any) -> None:
        given = arguments(driver, values, real)
        count = given["count"]
        assert grid[0] * block[0] >= count
        for name in ("finals", "samples"):
            given[name][:] = 0
        given["counts"][: 4 * count] = 0
        given["counts"][:count] = status

    return run


def null_of(kernel: Any) -> Callable[..., None]:
    """Return the interpretation of a kernel whose runs all succeed at once."""
    return null_kernel(kernel.settings.precision)


def cpu_of(kernel: Any) -> Callable[..., None]:
    """Return the interpretation of a kernel by the CPU target."""
    return cpu_kernel(_other(kernel, "cpu"), kernel.settings.precision)


def simulated_of(kernel: Any) -> Callable[..., None]:
    """Return the interpretation of a kernel by the simulator."""
    return simulated_kernel(_other(kernel, "simulator"), kernel.settings.precision)


def _other(kernel: Any, target: str) -> Any:
    """Return the program of a kernel for another target."""
    from attrs import evolve

    from cubie_flow.kernels.kernel import BatchSolverKernel

    locations = {entry.name: entry.location for entry in kernel.layout.entries}
    config = evolve(kernel.settings, target=target, arch=None, device=0)
    return BatchSolverKernel(kernel.run.settings, config, locations).product.program


def cpu_kernel(program: Any, real: Any) -> Callable[..., None]:
    """Return a kernel that integrates with a CPU program, by the arguments of the launch."""

    def run(driver: Driver, values: Any, grid: Any, block: Any) -> None:
        from cubie_flow.kernels.targets.batch import Batch

        given = arguments(driver, values, real)
        assert grid[0] * block[0] >= given["count"]
        strides = given["rows"], given["run_stride"], given["time_stride"]
        program.run(
            Batch(
                count=given["count"], inputs=given["inputs"], initial=given["initial"],
                settings=given["settings"], times=given["times"], time_count=given["time_count"],
                samples=given["samples"], strides=strides, finals=given["finals"],
                counts=given["counts"],
            )
        )  # fmt: skip

    return run


def simulated_kernel(program: Any, real: Any) -> Callable[..., None]:
    """Return a kernel whose own source numba's simulator runs, by the arguments of the launch."""

    def run(driver: Driver, values: Any, grid: Any, block: Any) -> None:
        from cubie_flow.kernels.targets.numba_cuda_adapter import FakeCUDAKernel, simulated_memory

        given = arguments(driver, values, real)
        kernel = FakeCUDAKernel(program._kernel, device=False)
        shared = -(-program._shared_stride * block[0] // 8) * 8
        with simulated_memory(0xFF):
            kernel[grid[0], block[0], 0, shared](*given.values())

    return run
