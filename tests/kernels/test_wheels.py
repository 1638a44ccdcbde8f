"""The key of a cached CUDA kernel names every package that decides its code."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cubie_flow.kernels.targets.cuda import WHEELS
from cubie_flow.kernels.targets.detect import toolkit_installed

#: Beginnings of the names of compilers; other packages decide no code.
COMPILERS = ("numba", "llvmlite", "nvidia-", "cuda-")
SCRIPT = """
import sys
from importlib.metadata import distributions
from pathlib import Path
from cubie_flow.kernels.targets.cuda_compile import compile_transpose
compile_transpose(32, "sm_90")
maps = Path("/proc/self/maps").read_text().splitlines()
files = {line.split()[-1] for line in maps if "/" in line}
paths = [m.__file__ for m in sys.modules.values() if getattr(m, "__file__", None)]
files |= {str(Path(path).resolve()) for path in paths}
for each in distributions():
    name = each.metadata["Name"].lower()
    if name.startswith(COMPILERS):
        if any(str(Path(each.locate_file(file)).resolve()) in files for file in each.files or ()):
            print(name)
"""


@pytest.mark.skipif(not toolkit_installed(), reason="needs the CUDA wheels")
@pytest.mark.skipif(sys.platform != "linux", reason="reads the libraries of a process")
def test_all_that_a_compilation_loads_is_in_the_key() -> None:
    script = f"COMPILERS = {COMPILERS}{SCRIPT}"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert {"numba", "llvmlite", "numba-cuda"} <= loaded
    assert loaded <= set(WHEELS)
