"""Occupancy against NVIDIA's own calculator."""

import ctypes
import random
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from cubie_flow.errors import FlowError
from cubie_flow.memory.occupancy import LIMITS, Occupancy, limits, occupancy

# arch, registers, shared bytes, block size -> blocks, limiter. Blocks are what cuda_occupancy.h of
# CUDA 13 gives; each is small enough to be checked by hand with the limits of the docstring.
KNOWN = [
    # 64 warps / 8 warps; 32 registers x 32 = 1024 a warp: 65536 / 1024 = 64 warps too
    ("sm_70", 32, 0, 256, 8, "warps and registers"),
    # 98304 // 49152 (no byte for the driver before 8.0)
    ("sm_70", 32, 49152, 128, 2, "shared memory"),
    ("sm_70", 16, 256, 32, 32, "blocks"),
    ("sm_75", 64, 0, 256, 4, "warps and registers"),
    ("sm_75", 54, 3584, 128, 8, "warps"),
    ("sm_75", 16, 256, 32, 16, "blocks"),
    ("sm_75", 32, 65536, 64, 1, "shared memory"),
    ("sm_75", 32, 65537, 64, 0, "shared memory"),
    # 255 registers: 8192 a warp, 2 warps in each of 4 parts = 8 warps
    ("sm_80", 255, 0, 128, 2, "registers"),
    ("sm_80", 255, 0, 256, 1, "registers"),
    ("sm_80", 255, 0, 288, 0, "registers"),
    # 164 KiB / (48 KiB + 1 KiB)
    ("sm_80", 32, 49152, 128, 3, "shared memory"),
    ("sm_80", 32, 166912, 128, 1, "shared memory"),
    ("sm_80", 32, 166913, 128, 0, "shared memory"),
    ("sm_86", 40, 0, 128, 12, "warps and registers"),
    ("sm_86", 32, 0, 1024, 1, "warps"),
    ("sm_86", 32, 101376, 128, 1, "shared memory"),
    ("sm_87", 32, 166912, 128, 1, "shared memory"),
    ("sm_89", 24, 0, 32, 24, "blocks"),
    ("sm_89", 128, 0, 128, 4, "registers"),
    # 102 registers: 3328 a warp, 16384 // 3328 = 4 in each part, 16 // 4 warps a block
    ("sm_90", 102, 0, 128, 4, "registers"),
    ("sm_90", 51, 3584, 128, 9, "registers"),
    # (227 + 1) KiB
    ("sm_90", 32, 232448, 128, 1, "shared memory"),
    # 17 x (12288 + 1024 = 13312) = 226304 <= 233472 < 18 x 13312
    ("sm_90", 32, 12288, 64, 17, "shared memory"),
    ("sm_90", 32, 0, 33, 32, "warps and blocks and registers"),
    ("sm_100", 32, 0, 64, 32, "warps and blocks and registers"),
    ("sm_101", 32, 0, 32, 24, "blocks"),
    ("sm_103", 255, 0, 64, 4, "registers"),
    ("sm_110", 32, 0, 512, 3, "warps"),
    ("sm_120", 40, 0, 256, 6, "warps and registers"),
    ("sm_121", 32, 101376, 128, 1, "shared memory"),
    ("sm_120", 32, 101377, 128, 0, "shared memory"),
]


@pytest.mark.parametrize(("arch", "registers", "shared", "block", "blocks", "limiter"), KNOWN)
def test_known_cases(
    arch: str, registers: int, shared: int, block: int, blocks: int, limiter: str
) -> None:
    warps = blocks * -(-block // 32)
    fraction = warps / limits(arch).warps
    assert occupancy(arch, registers, shared, block) == Occupancy(blocks, warps, fraction, limiter)


def test_a_block_of_more_than_1024_threads_does_not_run() -> None:
    assert occupancy("sm_90", 32, 0, 1025).active_blocks == 0


@pytest.mark.parametrize(
    ("arch", "registers", "shared", "block", "word"),
    [
        ("sm_61", 32, 0, 32, "sm_75"),
        ("90", 32, 0, 32, "sm_90"),
        ("sm_90", -1, 0, 32, "registers=-1"),
        ("sm_90", 32, -1, 32, "shared_bytes=-1"),
        ("sm_90", 32, 0, 0, "block_size=0"),
    ],
)
def test_what_cannot_be_is_refused(
    arch: str, registers: int, shared: int, block: int, word: str
) -> None:
    with pytest.raises(FlowError, match=word):
        occupancy(arch, registers, shared, block)


ORACLE = """
#include <limits.h>
#include <stddef.h>
#include <string.h>
#include "cuda_occupancy.h"
int blocks(int major, int minor, int warps, long sm, long most, long kept, int regs, long shared,
           int block) {
    cudaOccDeviceProp p; memset(&p, 0, sizeof p);
    p.computeMajor = major; p.computeMinor = minor; p.maxThreadsPerBlock = 1024;
    p.maxThreadsPerMultiprocessor = 32 * warps; p.regsPerBlock = 65536;
    p.regsPerMultiprocessor = 65536; p.warpSize = 32; p.sharedMemPerBlock = 49152;
    p.sharedMemPerMultiprocessor = sm; p.numSms = 1; p.sharedMemPerBlockOptin = most;
    p.reservedSharedMemPerBlock = kept;
    cudaOccFuncAttributes a; memset(&a, 0, sizeof a);
    a.maxThreadsPerBlock = 1024; a.numRegs = regs; a.partitionedGCConfig = PARTITIONED_GC_OFF;
    a.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN; a.maxDynamicSharedSizeBytes = most;
    cudaOccDeviceState s; memset(&s, 0, sizeof s); s.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
    cudaOccResult r;
    int error = cudaOccMaxActiveBlocksPerMultiprocessor(&r, &p, &a, &s, block, shared);
    return error ? -error : r.activeBlocksPerMultiprocessor;
}
"""


def header() -> Path | None:
    spec = find_spec("nvidia")
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    found = [path for place in places for path in Path(place).glob("cu*/include/cuda_occupancy.h")]
    return found[0].parent if found else None


@pytest.mark.skipif(
    header() is None or shutil.which("gcc") is None, reason="needs gcc and cuda_occupancy.h"
)
def test_it_agrees_with_nvidias_header(tmp_path: Path) -> None:
    source, library = tmp_path / "oracle.c", tmp_path / "oracle.so"
    source.write_text(ORACLE)
    subprocess.run(["gcc", "-shared", "-fPIC", f"-I{header()}", source, "-o", library], check=True)
    of = ctypes.CDLL(str(library)).blocks
    of.argtypes = [ctypes.c_int] * 3 + [ctypes.c_long] * 3 + [ctypes.c_int, ctypes.c_long]
    draw = random.Random(1)
    for _ in range(20_000):
        (major, minor), offered = draw.choice(list(LIMITS.items()))
        registers, block = draw.randint(1, 255), draw.randint(1, 1024)
        shared = draw.choice([0, draw.randint(0, 20_000), draw.randint(0, offered.shared_block)])
        expected = of(
            major, minor, offered.warps, offered.shared, offered.shared_block, offered.reserved,
            registers, shared, block,
        )  # fmt: skip
        found = occupancy(f"sm_{major}{minor}", registers, shared, block)
        assert found.active_blocks == expected, (major, minor, registers, shared, block)
