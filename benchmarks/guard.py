"""The guard: instruction, register and spill counts of some kernels, in ``instructions.txt``.

A change that lengthens a kernel or makes it spill appears in review as a changed line of this file,
on any machine. ``python -m benchmarks guard`` compares the counts with the file, and ``--renew``
writes the file; commit it together with the change that explains it.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from benchmarks.cases import Case, adaptive, fixed
from benchmarks.peers.kernel import make_kernel
from cubie_flow.errors import FlowError
from cubie_flow.kernels.kernel import BatchSolverKernel
from cubie_flow.kernels.targets.detect import toolkit_installed

FILE = Path(__file__).parent / "instructions.txt"
#: The processor to compile for, on any machine.
PROCESSOR = "skylake-avx512"
ARCH = "sm_90"
Counts = dict[str, int]


@frozen
class Group:
    """Figures of one compiler.

    Parameters
    ----------
    name : str
    packages : tuple of str
        Packages whose versions decide the figures, in addition to our own code.
    count : callable
        ``count(kernel)`` returns the figures.
    """

    name: str
    packages: tuple[str, ...]
    count: Callable[[BatchSolverKernel], Counts]

    @property
    def versions(self) -> str:
        """The installed versions, as in the file."""
        found = []
        for package in self.packages:
            try:
                found.append(f"{package}-{version(package)}")
            except PackageNotFoundError:
                found.append(f"{package}-missing")
        if self.name == "cpu":
            found.append(platform.machine())
        return " ".join(found) or "-"

    @property
    def usable(self) -> bool:
        """Whether the compiler is installed."""
        return self.name != "cuda" or toolkit_installed()


def kernels() -> dict[str, Case]:
    """Return the guarded kernels by name, as the first entry of a case."""
    lorenz = adaptive("lorenz", 64)
    series = [entry for entry in lorenz.entries if entry.method == "taylor_12"]
    known = {
        "lorenz_rk4": fixed(64),
        "lorenz_tsit5": lorenz,
        "lorenz_taylor_12": evolve(lorenz, entries=series),
        "lorenz96_40_tsit5": adaptive("lorenz96_40", 64),
        "hires_rodas5p": adaptive("hires", 64),
    }
    return {name: case for name, case in known.items() if case.problem.available}


def make(name: str) -> BatchSolverKernel:
    """Return a guarded kernel with 16 lanes: two registers of 512 bits."""
    case = kernels()[name]
    return make_kernel(case, case.entries[0], lanes=16)


def emitted(kernel: BatchSolverKernel) -> Counts:
    """Return the emitted IR instructions, before any compiler optimises them."""
    from llvmlite import ir

    from cubie_flow.kernels.targets.blocks import define_block

    dialect = evolve(kernel.dialect, vector=8)
    module = ir.Module("guard", context=ir.Context())
    for name, block in kernel.run.product.items():
        define_block(module, f"block_{name}", block, dialect, kernel.places)
    return {
        "instructions": sum(
            len(part.instructions) for function in module.functions for part in function.blocks
        )
    }


_INSTRUCTION = re.compile(r"^\s+([a-z][a-z0-9_.]*)(?:\s|$)")


def assembled(kernel: BatchSolverKernel) -> Counts:
    """Return the instructions of the batch loop on `PROCESSOR`, the vector ones, and the spills."""
    from cubie_flow.kernels.targets.cpu_compile import batch_loop_assembly

    text = batch_loop_assembly(
        kernel.run.product, evolve(kernel.dialect, vector=8), kernel.places, PROCESSOR
    )
    lines = [line for line in text.splitlines() if _INSTRUCTION.match(line)]
    stack = re.compile(r"^\s+vmov\w+\s+(?:%zmm\d+, -?\d*\(%rsp\)|-?\d*\(%rsp\), %zmm\d+)")
    return {
        "instructions": len(lines),
        "vector_instructions": sum("%zmm" in line for line in lines),
        "vector_spills": sum(bool(stack.match(line)) for line in lines),
    }


def assembled_for_gpu(kernel: BatchSolverKernel) -> Counts:
    """Return the PTX and SASS instructions on `ARCH`, registers, stack and spills."""
    code = kernel.compile_cuda(ARCH)
    figures = code.figures.as_dict()
    words = [line.strip() for line in code.ptx.splitlines()]
    body = [word for word in words if word.endswith(";") and not word.startswith((".", "//"))]
    # An instruction is 16 bytes from sm_70 on.
    counts = {"ptx_instructions": len(body), "sass_instructions": figures["code"] // 16}
    return counts | {
        name: figures[name] for name in ("registers", "stack", "spill_stores", "spill_loads")
    }


GROUPS = (
    Group("emitted", (), emitted),
    Group("cpu", ("llvmlite", "numba"), assembled),
    Group("cuda", ("numba-cuda", "nvidia-nvvm", "nvidia-nvjitlink"), assembled_for_gpu),
)


def measure(name: str, group: Group) -> dict[str, int]:
    """Return the figures of one kernel, as the file names them."""
    return {
        f"{name} {group.name}.{figure}": count for figure, count in group.count(make(name)).items()
    }


def read(path: Path = FILE) -> tuple[dict[str, str], dict[str, int]]:
    """Return the versions by group and the figures by name that the file holds.

    Raises
    ------
    FlowError
        If it is missing.
    """
    if not path.is_file():
        raise FlowError(f"'{path.name}' is missing; python -m benchmarks guard --renew makes it")
    versions: dict[str, str] = {}
    figures: dict[str, int] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("with "):
            _, group, held = line.split(maxsplit=2)
            versions[group] = held
        elif line and not line.startswith("#"):
            kernel, figure, count = line.split()
            figures[f"{kernel} {figure}"] = int(count)
    return versions, figures


def text(versions: Mapping[str, str], figures: Mapping[str, int]) -> str:
    """Return the text of the file."""
    lines = [
        "# What our kernels are made of; see benchmarks/guard.py.",
        "# To renew: python -m benchmarks guard --renew",
        *(f"with {group} {held}" for group, held in versions.items()),
    ]
    for name, count in figures.items():
        kernel, figure = name.split()
        lines.append(f"{kernel:<20} {figure:<28} {count:>7}")
    return "\n".join(lines) + "\n"


def differences(held: Mapping[str, int], found: Mapping[str, int]) -> Iterator[str]:
    """Yield one sentence per figure that differs from the file."""
    for name, count in found.items():
        if name not in held:
            yield f"{name} is {count}, and the file does not have it"
        elif held[name] != count:
            change = 100.0 * (count - held[name]) / max(1, held[name])
            yield f"{name} is {count}, was {held[name]} ({change:+.1f} %)"


def command(renew: bool) -> int:
    """Compare the counts with the file, or write it; return the exit status."""
    versions: dict[str, str] = {}
    held: dict[str, int] = {}
    if not renew:
        versions, held = read()
    found: dict[str, int] = {}
    changed: list[str] = []
    for group in GROUPS:
        if not group.usable:
            if renew:
                raise FlowError(
                    "the guard's file needs every compiler; install the extra cuda13 first"
                )
            print(f"{group.name}: skipped, its compiler is not installed")
            continue
        if not renew and versions.get(group.name) != group.versions:
            print(f"{group.name}: skipped, the file is of {versions.get(group.name)}")
            continue
        figures: dict[str, Any] = {}
        for name in kernels():
            figures |= measure(name, group)
        changed += differences(held, figures)
        found |= figures
        versions[group.name] = group.versions
    if renew:
        FILE.write_text(text(versions, found), encoding="utf-8")
        print(f"{len(found)} figures written to {FILE.name}")
        return 0
    for sentence in changed:
        print(sentence, file=sys.stderr)
    print(f"{len(found)} figures compared, {len(changed)} changed")
    return 1 if changed else 0
