"""The CPU target's compiler: numba turns the driver and its blocks into object code.

Only a cold cache imports this module, and with it numba.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numba import njit, types
from numba.extending import intrinsic

from cubie_flow.expressions.block import Block
from cubie_flow.expressions.emit import I64, Dialect, Place
from cubie_flow.kernels.targets.blocks import block_intrinsic
from cubie_flow.kernels.targets.driver import make_driver


@intrinsic  # type: ignore[untyped-decorator]
def _take(context: Any, counter: Any, following: Any, stride: Any) -> Any:
    """Take the next run from the counter that all threads share."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", args[0], I64(1), "monotonic")

    return types.int64(counter, following, stride), generate


def compile_driver(
    blocks: Mapping[str, Block], dialect: Dialect, places: Mapping[str, Place]
) -> tuple[bytes, str, str]:
    """Return (object code, entry symbol, assembly) of the driver for this processor."""

    def compile_function(function: Any) -> Any:
        return njit(function, nogil=True, error_model="numpy")

    compiled = {
        name: block_intrinsic(block, dialect, places, intrinsic, types)
        for name, block in blocks.items()
    }
    driver = make_driver(compiled, _take, dialect.lanes, compile_function)

    def entry(
        shared: Any, local: Any, persistent: Any, runs: Any, count: int, counter: Any,
        inputs: Any, initial: Any, settings: Any, times: Any, time_count: int, samples: Any,
        rows: int, run_stride: int, time_stride: int, finals: Any, counts: Any,
    ) -> None:  # fmt: skip
        driver(
            (shared, local, persistent), runs, 0, count, 1, counter, inputs, initial, settings,
            times, time_count, samples, rows, run_stride, time_stride, finals, counts,
        )  # fmt: skip

    real = types.CPointer(types.float64 if dialect.real == "float64" else types.float32)
    whole, size = types.CPointer(types.int64), types.int64
    signature = types.void(
        types.voidptr, types.voidptr, types.voidptr, whole, size, whole, real, real, real, real,
        size, real, size, size, size, real, types.CPointer(types.int32),
    )  # fmt: skip
    dispatcher = njit([signature], nogil=True, error_model="numpy")(entry)
    (overload,) = dispatcher.overloads.values()
    library = overload.library
    _, _, (code, _) = library.serialize_using_object_code()
    return code, overload.fndesc.llvm_func_name, library.get_asm_str()
