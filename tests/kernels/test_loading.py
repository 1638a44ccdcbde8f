"""Kernels load wherever the address space has room."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# A hole of one page, and nothing else for 64 GB: code and constants cannot lie side by side
# unless they are asked for together.
SCRIPT = """
import ctypes
import numpy as np
from cubie_flow import OdeSystem, solve
from cubie_flow.kernels.targets import cpu_program

libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
load = cpu_program.CpuProgram.__init__


def nothing(size):
    return libc.mmap(None, size, 0, 0x4022, -1, 0)  # private, anonymous, without reserve


def crowded(self, *arguments):
    wall, holes = nothing(64 << 30), []
    while (page := nothing(4096)) > wall:
        holes.append(page)
    assert holes
    libc.munmap(holes[0], 4096)
    load(self, *arguments)


system = OdeSystem.from_equations(
    "dx/dt = -k*x + sin(x)*exp(-x)", states={"x": 1.0}, parameters={"k": 1.0}
)
values = {"k": np.linspace(0.5, 1.0, 64)}
solve(system, parameters=values, duration=1.0)  # compiled and cached
cpu_program.CpuProgram.__init__ = crowded
print("finite", bool(np.isfinite(solve(system, parameters=values, duration=1.0).x_final).all()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="maps memory the way Linux does")
def test_code_reaches_its_constants_in_a_crowded_address_space() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.stdout == "finite True\n", done.stderr


NEW_MODEL = """
import sys
from pathlib import Path
import numpy as np
from cubie_flow import OdeSystem, solve

system = OdeSystem.from_equations({equation!r}, states={{"x": 1.0}}, parameters={{"k": 1.0}})
values = {{"k": np.linspace(0.5, 1.0, 3)}}
ends = solve(system, parameters=values, duration=1.0).x_final.values
print("numba" in sys.modules, [float(x).hex() for x in ends])
"""


def test_a_new_model_needs_no_numba_once_its_loop_is_stored(tmp_path: Path) -> None:
    """Numba lowers a batch loop once per method; the stored loop gives the same bits."""

    def run(equation: str, cache: str) -> list[str]:
        environment = {**os.environ, "CUBIE_FLOW_CACHE": str(tmp_path / cache)}
        command = [sys.executable, "-c", NEW_MODEL.format(equation=equation)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert not done.returncode, done.stderr
        return done.stdout.split(maxsplit=1)

    assert run("dx/dt = -k*x", "one")[0] == "True"
    assert len(list((tmp_path / "one").glob("*.loop"))) == 1
    numba, ends = run("dx/dt = -k*x*x", "one")
    assert numba == "False"
    assert run("dx/dt = -k*x*x", "two") == ["True", ends]
