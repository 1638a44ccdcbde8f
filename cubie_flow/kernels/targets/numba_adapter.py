"""Private parts of numba that the CPU compiler uses; written for numba 0.62 to 0.66."""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from numba.core import compiler
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target


def lower(function: Any, signature: Any) -> tuple[Any, str]:
    """Return (LLVM module, symbol) of a function, before numba optimises it.

    Numba would go on to optimise the module and emit machine code that nobody runs.
    """
    flags = compiler.Flags()
    flags.nrt = False
    flags.error_model = "numpy"
    flags.no_compile = True
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    with global_compiler_lock:
        result = compiler.compile_extra(
            cpu_target.typing_context, cpu_target.target_context, function, signature.args,
            signature.return_type, flags, locals={},
        )  # fmt: skip
        library = result.library
        module = llvm.parse_assembly(str(library._final_module))
        for linked in dict.fromkeys(library._linking_libraries):
            module.link_in(linked._get_module_for_linking(), preserve=True)
    return module, result.fndesc.llvm_func_name
