"""The size of a block: the padded stride of a run's shared memory, and how many runs fit."""

from __future__ import annotations

from collections import Counter, defaultdict

from attrs import frozen

from cubie_flow.errors import FlowError
from cubie_flow.memory.layout import Layout, LayoutEntry
from cubie_flow.memory.occupancy import largest_block

BANKS = 32
BANK_BYTES = 4


def padded_stride_bytes(bytes_per_run: int, widest_itemsize: int) -> int:
    """Return the bytes from one run's shared memory to the next.

    Both the dynamic shared memory of a launch and the stride of the kernel come from here. A
    stride of an odd number of the widest items spreads equal offsets of neighbouring runs over all
    banks, and keeps 8-byte items aligned.

    Parameters
    ----------
    bytes_per_run : int
        Shared bytes of one run; 0 stays 0.
    widest_itemsize : int
        Bytes of the widest dtype in shared memory; less than 4 counts as 4.

    Returns
    -------
    int
        At least ``bytes_per_run``: an odd multiple of 4 or 8 bytes, or 0.

    Raises
    ------
    FlowError
        If the item size is not 1, 2, 4 or 8 or the bytes are negative.
    """
    if widest_itemsize not in (1, 2, 4, 8):
        raise FlowError(f"widest_itemsize={widest_itemsize} is not one of 1, 2, 4, 8")
    if bytes_per_run < 0:
        raise FlowError(f"bytes_per_run={bytes_per_run} is negative")
    if bytes_per_run == 0:
        return 0
    unit = max(widest_itemsize, BANK_BYTES)
    return (-(-bytes_per_run // unit) | 1) * unit


def bank_conflicts(stride_bytes: int, itemsize: int, lanes: int = 32) -> int:
    """Return the largest number of reads of one bank when every lane reads the same offset.

    Simulates 32 banks of 4 bytes. Lanes are served 128 bytes at a time (a half warp for 8-byte
    items), and lanes that read the same word share one read; 1 means no conflict.

    Parameters
    ----------
    stride_bytes : int
        Bytes between the data of neighbouring lanes.
    itemsize : int
        Bytes each lane reads.
    lanes : int
        Number of lanes that read together.
    """
    served = BANKS * BANK_BYTES // max(itemsize, BANK_BYTES)
    worst = 0
    for first in range(0, lanes, served):
        words: defaultdict[int, set[int]] = defaultdict(set)
        for lane in range(first, min(first + served, lanes)):
            start = lane * stride_bytes
            for word in range(start // BANK_BYTES, (start + itemsize - 1) // BANK_BYTES + 1):
                words[word % BANKS].add(word)
        worst = max(worst, *map(len, words.values()))
    return worst


@frozen
class BlockFit:
    """A block size that fits.

    Attributes
    ----------
    block_size : int
        Runs per block.
    halvings : int
        Number of times the wanted size was halved.
    shared_bytes : int
        Dynamic shared memory of the block.
    """

    block_size: int
    halvings: int
    shared_bytes: int


def fit_block(
    block_size: int,
    stride_bytes: int,
    limit_bytes: int,
    warp: int = 32,
    layout: Layout | None = None,
    registers: int = 0,
) -> BlockFit:
    """Halve the block size until its shared memory and registers fit, down to a single run.

    Parameters
    ----------
    block_size : int
        Wanted runs per block.
    stride_bytes : int
        Shared bytes per run, from `padded_stride_bytes`.
    limit_bytes : int
        Limit of the device per block.
    warp : int
        Threads per warp: a halved block of more than a warp is rounded down to whole warps.
    layout : Layout, optional
        The layout of the run; lets the error name buffers and remedies.
    registers : int
        Registers per thread; 0 if they are not known.

    Raises
    ------
    FlowError
        If the block is smaller than one run, or if one run does not fit.
    """
    if block_size < 1:
        raise FlowError(f"block_size={block_size} is smaller than one run")
    if stride_bytes > limit_bytes:
        raise FlowError(_too_large(stride_bytes, limit_bytes, layout))
    size, halvings, most = block_size, 0, largest_block(registers)
    if not most:
        raise FlowError(f"a thread has {registers} registers, more than a GPU can give it")
    while size * stride_bytes > limit_bytes or size > most:
        size //= 2
        halvings += 1
        if size > warp:
            size -= size % warp
    return BlockFit(size, halvings, size * stride_bytes)


def _too_large(stride_bytes: int, limit_bytes: int, layout: Layout | None) -> str:
    message = f"one run needs {stride_bytes} bytes of shared memory and a block has {limit_bytes}"
    if layout is None:
        return message
    shared = [entry for entry in layout.entries if entry.arena == "shared" and entry.bytes]
    shared.sort(key=lambda entry: -entry.bytes)
    largest = ", ".join(f"{e.path}.{e.name} ({e.bytes} bytes)" for e in shared[:3])
    moves = _moves(layout, shared, limit_bytes)
    return f"{message}; the largest shared buffers are {largest}; {moves}"


def _moves(layout: Layout, shared: list[LayoutEntry], limit_bytes: int) -> str:
    """Return the moves to local memory that would make one run fit, for a message.

    Removing a buffer of b bytes from a packed arena frees at least b rounded down to the widest
    item, so the suggestion always fits. The keys move every buffer of a name and its aliases,
    because an alias that stays would need its own memory.
    """
    widest = layout.widest_dtype("shared")
    itemsize = widest.itemsize if widest is not None else BANK_BYTES
    freed: Counter[str] = Counter()
    for entry in shared:
        if entry.alias is None:
            freed[entry.name] += entry.bytes - entry.bytes % itemsize
    guests: defaultdict[str, list[str]] = defaultdict(list)
    for entry in shared:
        if entry.alias is not None:
            guests[entry.alias].append(entry.name)

    def fits(names: list[str]) -> bool:
        left = layout.bytes("shared") - sum(freed[name] for name in names)
        # Both units, since the widest item may be moved, and either unit may pad more.
        strides = (padded_stride_bytes(max(left, 0), unit) for unit in (BANK_BYTES, itemsize))
        return max(strides) <= limit_bytes

    def keys(names: list[str]) -> str:
        every = dict.fromkeys(key for name in names for key in (name, *guests[name]))
        return " ".join(f"{name}_location=local" for name in every)

    alone = [name for name in freed if fits([name])]
    if alone:
        return f"{' or '.join(keys([name]) for name in alone[:3])} would fit"
    names: list[str] = []
    for name, _ in freed.most_common():
        names.append(name)
        if fits(names):
            break
    return f"{keys(names)} together would fit"
