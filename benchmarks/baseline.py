"""The hand-written CUDA C++ kernels of ``lorenz.cu``, compiled with NVRTC."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cubie_flow.errors import FlowError
from cubie_flow.integrators.tableaus import tableau

if TYPE_CHECKING:
    from cubie_flow.kernels.targets.cuda_code import CudaCode

SOURCE = Path(__file__).with_name("lorenz.cu")


def coefficients() -> str:
    """Return the definitions that the source needs, from our tableau of Tsit5."""
    known = tableau("tsit5")
    lines = [f"#define A{i}{j} {a!r}" for i, row in enumerate(known.a) for j, a in enumerate(row)]
    lines += [f"#define B{j} {b!r}" for j, b in enumerate(known.b)]
    lines += [f"#define E{j} {e!r}" for j, e in enumerate(known.error or ())]
    return "\n".join(lines) + "\n"


def source() -> str:
    """Return the whole source."""
    return coefficients() + SOURCE.read_text(encoding="utf-8")


def compile_baseline(kernel: str, precision: str, arch: str) -> CudaCode:
    """Compile one of the kernels; no GPU needed.

    Parameters
    ----------
    kernel : {"lorenz_rk4", "lorenz_tsit5"}
    precision : {"float32", "float64"}
    arch : str

    Raises
    ------
    FlowError
        With the compiler's first line, if it refuses the source.
    """
    from cubie_flow.kernels.targets.cuda_code import CudaCode
    from cubie_flow.kernels.targets.cuda_compile import link

    real = "float" if precision == "float32" else "double"
    ptx = _ptx(source(), [f"-DREAL={real}", f"-D{kernel.upper()}"], arch)
    cubin, figures = link(ptx, arch)
    return CudaCode(ptx, cubin, kernel, arch, figures)


def _ptx(text: str, definitions: list[str], arch: str) -> str:
    from cuda.bindings import nvrtc

    def check(answer: tuple[Any, ...]) -> Any:
        if answer[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise FlowError(f"NVRTC: {nvrtc.nvrtcGetErrorString(answer[0])[1].decode()}")
        return answer[1] if len(answer) > 1 else None

    program = check(nvrtc.nvrtcCreateProgram(text.encode(), b"lorenz.cu", 0, [], []))
    architecture = f"--gpu-architecture={arch.replace('sm', 'compute')}"
    options = [option.encode() for option in (architecture, *definitions)]
    if nvrtc.nvrtcCompileProgram(program, len(options), options)[0] != 0:
        log: bytes = b" " * check(nvrtc.nvrtcGetProgramLogSize(program))
        check(nvrtc.nvrtcGetProgramLog(program, log))
        raise FlowError(f"NVRTC: {log.decode().splitlines()[0]}")
    ptx: bytes = b" " * check(nvrtc.nvrtcGetPTXSize(program))
    check(nvrtc.nvrtcGetPTX(program, ptx))
    return ptx.rstrip(b"\0 ").decode()
