"""The measured floating-point peak of the processor: only independent fused multiply-adds."""

from __future__ import annotations

import ctypes
from threading import Thread
from time import perf_counter
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

#: Independent chains: more than the latency times the number of units, fewer than registers.
CHAINS = 12
_I64 = ir.IntType(64)


class Peak:
    """A compiled loop of multiply-adds.

    Parameters
    ----------
    precision : {"float32", "float64"}
    vector_bits : int
        Width of the vectors.
    """

    def __init__(self, precision: str, vector_bits: int) -> None:
        self.lanes = vector_bits // (64 if precision == "float64" else 32)
        real = ir.DoubleType() if precision == "float64" else ir.FloatType()
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(),
            opt=2, jit=True,
        )  # fmt: skip
        module = llvm.parse_assembly(str(_module(ir.VectorType(real, self.lanes), real)))
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        address = self._engine.get_function_address("peak")
        self._call = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(address)

    def flops(self, threads: int, repeats: int = 10_000_000) -> float:
        """Return the floating-point operations per second of all threads together.

        Parameters
        ----------
        threads : int
        repeats : int
            Number of passes of the loop, each with `CHAINS` multiply-adds.
        """
        places = [(ctypes.c_double * 16)(0.5) for _ in range(threads)]
        workers = [
            Thread(target=self._call, args=(repeats, ctypes.addressof(place))) for place in places
        ]
        began = perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return 2.0 * self.lanes * CHAINS * repeats * threads / (perf_counter() - began)


def _module(vector: Any, real: Any) -> Any:
    """Return the module of ``peak(repeats, place)``, which ends by storing a sum."""
    module = ir.Module("peak")
    pointer = ir.PointerType(vector)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [_I64, pointer]), "peak")
    fma = ir.Function(
        module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{vector.count}f{_bits(real)}"
    )
    entry, loop, done = (function.append_basic_block(name) for name in ("entry", "loop", "done"))
    builder = ir.IRBuilder(entry)
    # Read from memory, so that the compiler cannot compute it.
    first = builder.load(function.args[1], align=8)
    builder.branch(loop)
    builder.position_at_end(loop)
    count = builder.phi(_I64)
    chains = [builder.phi(vector) for _ in range(CHAINS)]
    following = [builder.call(fma, [chain, first, first]) for chain in chains]
    left = builder.sub(count, _I64(1))
    builder.cbranch(builder.icmp_signed(">", left, _I64(0)), loop, done)
    count.add_incoming(function.args[0], entry)
    count.add_incoming(left, loop)
    for number, (chain, after) in enumerate(zip(chains, following, strict=True)):
        start = ir.Constant(vector, [ir.Constant(real, float(number))] * vector.count)
        chain.add_incoming(start, entry)
        chain.add_incoming(after, loop)
    builder.position_at_end(done)
    total = following[0]
    for after in following[1:]:
        total = builder.fadd(total, after)
    builder.store(total, function.args[1], align=8)
    builder.ret_void()
    return module


def _bits(real: Any) -> int:
    return 64 if isinstance(real, ir.DoubleType) else 32
