"""Occupancy: the number of warps that a multiprocessor holds, from NVIDIA's published limits.

Sources: "Technical Specifications per Compute Capability" of the CUDA C++ Programming Guide
(warps, blocks, registers and shared memory) and the rules of ``cuda_occupancy.h``, which the
toolkit ships as the occupancy calculator: a warp gets registers in units of 256, from each
of the four parts of a multiprocessor separately; a block gets shared memory in units, with 1 KiB
more for the driver from compute capability 8.0 on. Neither a GPU nor the toolkit is needed.
"""

from __future__ import annotations

import re

from attrs import frozen

from cubie_flow.errors import FlowError, nearest

WARP = 32
WARP_REGISTERS = 256
PARTITIONS = 4
KIB = 1024


@frozen
class Limits:
    """Limits of one multiprocessor of a compute capability.

    Attributes
    ----------
    warps, blocks : int
        Largest number of resident warps and blocks.
    shared : int
        Bytes of shared memory of the multiprocessor.
    shared_block : int
        Bytes that a block may opt in to.
    reserved : int
        Bytes that the driver reserves of every block.
    shared_unit : int
        Allocation unit of shared memory in bytes.
    registers : int
        Registers of the multiprocessor, which a single block may use.
    registers_thread : int
        Largest number of registers per thread.
    threads_block : int
        Largest number of threads per block.
    """

    warps: int
    blocks: int
    shared: int
    shared_block: int
    reserved: int = KIB
    shared_unit: int = 128
    registers: int = 65536
    registers_thread: int = 255
    threads_block: int = 1024


def _before_ampere(warps: int, blocks: int, shared: int) -> Limits:
    return Limits(warps, blocks, shared * KIB, shared * KIB, reserved=0, shared_unit=256)


def _since_ampere(warps: int, blocks: int, shared: int) -> Limits:
    return Limits(warps, blocks, shared * KIB, (shared - 1) * KIB)


#: Limits by compute capability.
LIMITS: dict[tuple[int, int], Limits] = {
    (7, 0): _before_ampere(64, 32, 96),
    (7, 2): _before_ampere(64, 32, 96),
    (7, 5): _before_ampere(32, 16, 64),
    (8, 0): _since_ampere(64, 32, 164),
    (8, 6): _since_ampere(48, 16, 100),
    (8, 7): _since_ampere(48, 16, 164),
    (8, 8): _since_ampere(48, 16, 100),
    (8, 9): _since_ampere(48, 24, 100),
    (9, 0): _since_ampere(64, 32, 228),
    (10, 0): _since_ampere(64, 32, 228),
    (10, 1): _since_ampere(48, 24, 228),
    (10, 3): _since_ampere(64, 32, 228),
    (11, 0): _since_ampere(48, 24, 228),
    (12, 0): _since_ampere(48, 24, 100),
    (12, 1): _since_ampere(48, 24, 100),
}


def capability(arch: str) -> tuple[int, int]:
    """Return (major, minor) of an architecture name such as ``sm_90``.

    Raises
    ------
    FlowError
        If the name has another form.
    """
    match = re.fullmatch(r"sm_(\d+)(\d)[a-f]?", arch)
    if not match:
        raise FlowError(f"target.arch is '{arch}'; it must look like sm_80 or sm_90")
    return int(match[1]), int(match[2])


def is_known(arch: str) -> bool:
    """Return whether the limits of an architecture are known."""
    return capability(arch) in LIMITS


def limits(arch: str) -> Limits:
    """Return the limits of one multiprocessor of `arch`.

    Raises
    ------
    FlowError
        If the compute capability is not known.
    """
    known_limits = LIMITS.get(capability(arch))
    if known_limits is None:
        known = ", ".join(f"sm_{major}{minor}" for major, minor in LIMITS)
        raise FlowError(
            f"target.arch is '{arch}', whose limits are not known (known: {known})"
            f"{nearest(arch, known.split(', '))}"
        )
    return known_limits


@frozen
class Occupancy:
    """Occupancy of a multiprocessor by one kernel.

    Attributes
    ----------
    active_blocks, active_warps : int
        Resident blocks and warps; 0 if not even one block fits.
    fraction : float
        Active warps divided by the largest number of warps.
    limiter : str
        What prevents further blocks: ``warps``, ``blocks``, ``registers`` or ``shared memory``,
        several joined by " and ".
    """

    active_blocks: int
    active_warps: int
    fraction: float
    limiter: str


def occupancy(arch: str, registers: int, shared_bytes: int, block_size: int) -> Occupancy:
    """Return the occupancy of a kernel.

    Parameters
    ----------
    arch : str
        Such as ``sm_90``.
    registers : int
        Registers per thread.
    shared_bytes : int
        Static and dynamic shared memory per block, without the driver's part.
    block_size : int
        Threads per block.

    Raises
    ------
    FlowError
        If the architecture is not known or a number is out of range.
    """
    offered = limits(arch)
    if block_size < 1 or registers < 0 or shared_bytes < 0:
        raise FlowError(
            f"block_size={block_size}, registers={registers} and shared_bytes={shared_bytes} "
            "must be at least 1, 0 and 0"
        )
    warps = -(-block_size // WARP)
    room = {
        "warps": 0 if block_size > offered.threads_block else offered.warps // warps,
        "blocks": offered.blocks,
        "registers": _by_registers(offered, registers, warps),
        "shared memory": _by_shared(offered, shared_bytes),
    }
    if not shared_bytes and room["shared memory"] >= offered.blocks:
        del room["shared memory"]  # not a limit for blocks without shared memory
    blocks = min(room.values())
    limiter = " and ".join(name for name, value in room.items() if value == blocks)
    return Occupancy(blocks, blocks * warps, blocks * warps / offered.warps, limiter)


def largest_block(registers: int) -> int:
    """Return the largest number of threads of a block by the registers of a thread.

    It is the same for all compute capabilities since 7.0.

    Parameters
    ----------
    registers : int
        Registers per thread; 0 if they are not known.
    """
    offered = Limits(0, 1, 0, 0)
    fitting = (
        warps
        for warps in range(offered.threads_block // WARP, 0, -1)
        if _by_registers(offered, registers, warps)
    )
    return WARP * next(fitting, 0)


def _by_registers(offered: Limits, registers: int, warps: int) -> int:
    if registers == 0:
        return offered.blocks
    if registers > offered.registers_thread:
        return 0
    of_warp = -(-registers * WARP // WARP_REGISTERS) * WARP_REGISTERS
    # A launch is checked as if the parts of the multiprocessor held equal numbers of warps.
    if of_warp * -(-warps // PARTITIONS) * PARTITIONS > offered.registers:
        return 0
    return offered.registers // PARTITIONS // of_warp * PARTITIONS // warps


def _by_shared(offered: Limits, shared_bytes: int) -> int:
    if shared_bytes > offered.shared_block:
        return 0
    taken = -(-(shared_bytes + offered.reserved) // offered.shared_unit) * offered.shared_unit
    return offered.shared // taken if taken else offered.blocks
