"""The plan of a study as text and as the row of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

from cubie_flow.console.tables import text_table
from cubie_flow.kernels.plan import ArchPlan, KernelPlan
from cubie_flow.memory.occupancy import limits

if TYPE_CHECKING:
    from cubie_flow.study.plan import Plan


@frozen
class Amount:
    """Size of a study, or of several together: runs, shards, bytes before compression."""

    runs: int = 0
    shards: int = 0
    store_bytes: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.runs + other.runs,
            self.shards + other.shards,
            self.store_bytes + other.store_bytes,
        )

    def __str__(self) -> str:
        counts = f"{count_text(self.runs, 'run')} in {count_text(self.shards, 'shard')}"
        size = size_text(self.store_bytes)
        return f"{counts}, with results of at most {size} before compression"

    def above(self, engine: Mapping[str, Any]) -> str:
        """Return the limits of ``engine`` that ask for ``confirm=true`` and are exceeded."""
        sizes = {"confirm_runs": self.runs, "confirm_bytes": self.store_bytes}
        over = [f"engine.{k}={engine[k]:,}" for k, size in sizes.items() if size > engine[k]]
        return " and ".join(over)


def plan_text(plan: Plan) -> str:
    """Return a plan as lines to read."""
    kernel = plan.kernel
    lanes = f", {kernel.lanes} lanes per core" if kernel.target == "cpu" else ""
    lines = [f"{'plan':<8} {plan.title}, on {kernel.target}{lanes}", ""]
    lines += [text_table(_buffer_rows(kernel)), ""]
    previous = ""
    for name, text in (*_kernel_facts(kernel), *_study_facts(plan)):
        lines.append(f"{'' if name == previous else name:<8} {text}")
        previous = name
    return "\n".join(lines)


def _kernel_facts(kernel: KernelPlan) -> Iterator[tuple[str, str]]:
    """Yield the memory of one run, and block and occupancy on every architecture."""
    shared, local, persistent = kernel.arena_bytes
    yield (
        "shared",
        f"{shared:,} bytes per run ({kernel.shared_elements:,} elements of {kernel.precision}), "
        f"stride {kernel.stride:,}: {kernel.stride_reason}",
    )
    yield (
        "local",
        f"{local + persistent:,} bytes per run, {persistent:,} of them kept between steps",
    )
    if kernel.target == "cpu":
        yield "arena", f"{kernel.thread_bytes:,} bytes per CPU thread, all lanes"
    for arch in kernel.architectures:
        yield from ((arch.arch, line) for line in _arch_lines(arch, kernel.block_size))


def _study_facts(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield the sizes of runs, store and shards, and the memory they need."""
    disk = f"of {size_text(plan.disk_free)} free" if plan.local else f"in {plan.location.name}"
    sizes = f"each {plan.input_run:,} bytes in, {plan.output_run:,} out"
    yield "runs", f"{plan.runs:,} ({plan.study.design.words}); {sizes}"
    own = plan.study.subjects
    if own is not None:
        count, size = count_text(own.design.table.size, "subject"), plan.study.record_bytes
        yield "records", f"{size_text(size)} of doses and observations of {count}"
    yield "store", f"at most {size_text(plan.store_bytes)}, before compression, {disk}"
    yield (
        "shards",
        f"{plan.shards:,} of {plan.shard_runs:,} runs, {size_text(plan.shard_bytes)} each "
        f"in memory, at most {plan.shards_in_memory} at once",
    )
    if rounded := rounded_shards(plan):
        yield "note", rounded
    yield (
        "host",
        f"at most about {size_text(plan.host_bytes)} at the peak, of "
        f"{size_text(plan.host_available)} available",
    )
    if plan.device_memory:
        local = ""
        if plan.device_local:
            local = f", {size_text(plan.device_local)} of it local memory of all resident threads"
        total, device = size_text(plan.device_bytes), size_text(plan.device_memory)
        yield "GPU", f"{total} per shard, of {device}{local}"
    yield "binds", plan.binding


def rounded_shards(plan: Plan) -> str:
    """Return a note if shards are larger than was asked for; empty otherwise."""
    asked, made = plan.study.shard_runs, plan.shard_runs
    if asked is None or made <= asked:
        return ""
    chunk = plan.shard_plan.chunk_runs
    return f"storage.shard_runs={asked} became {made:,}, whole chunks of {chunk:,} runs"


def plan_row(plan: Plan) -> dict[str, str]:
    """Return the plan as one row of a table, column to text."""
    kernel = plan.kernel
    cells = {"shared": f"{kernel.shared_bytes:,}", "stride": f"{kernel.stride:,}"}
    cells["local"] = f"{sum(kernel.arena_bytes[1:]):,}"
    several = len(kernel.architectures) > 1
    for arch in kernel.architectures:
        suffix = f" {arch.arch}" if several else ""
        cells[f"arch{suffix}"] = arch.arch
        cells[f"block{suffix}"] = "-" if arch.fit is None else str(arch.fit.block_size)
        for short, name in (("regs", "registers"), ("stack", "stack"), ("code", "code")):
            cells[f"{short}{suffix}"] = f"{arch.figures[name]:,}" if arch.figures else "-"
        spills = arch.figures.get("spill_stores", 0) + arch.figures.get("spill_loads", 0)
        cells[f"spills{suffix}"] = f"{spills:,}" if arch.figures else "-"
        full = arch.occupancy
        cells[f"occupancy{suffix}"] = "-" if full is None else f"{full.fraction:.0%} {full.limiter}"
    cells.update(
        runs=f"{plan.runs:,}",
        shards=f"{plan.shards:,}",
        store=size_text(plan.store_bytes),
        host=size_text(plan.host_bytes),
        fits="no" if plan.problems else "yes",
    )
    return cells


def count_text(number: int, what: str) -> str:
    """Return a number of things, such as ``3 runs``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def size_text(count: int) -> str:
    """Return a number of bytes with a unit, such as ``1.5 MB``."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count} bytes"


def _buffer_rows(kernel: KernelPlan) -> list[dict[str, str]]:
    """Return every buffer as a row of a table."""
    return [
        {
            "buffer": entry.name,
            "owner": entry.path.partition(".")[2],
            "location": "local, kept" if entry.arena == "persistent" else entry.location,
            "dtype": entry.dtype.name,
            "elements": f"{entry.elements:,}",
            "bytes": f"{entry.bytes:,}",
            "offset": "-" if entry.arena == "register" else f"{entry.offset:,}",
            "alias": entry.alias or "-",
        }
        for entry in kernel.buffers
    ]


def _arch_lines(arch: ArchPlan, requested: int) -> Iterator[str]:
    """Yield what is known of the kernel on one architecture."""
    if arch.problem:
        yield f"does not fit: {arch.problem}"
    if arch.fit is not None:
        fit = arch.fit
        why = f"{requested} halved {fit.halvings}x to fit" if fit.halvings else "as requested, fits"
        yield (
            f"block {fit.block_size} ({why}), {fit.shared_bytes:,} of {arch.shared_limit:,} "
            "bytes of shared memory"
        )
    if arch.missing:
        yield f"no compiler statistics: {arch.missing}"
    if arch.figures:
        f = arch.figures
        yield (
            f"{f['registers']} registers, {f['stack']:,} bytes of stack, spills "
            f"{f['spill_stores']:,} bytes stored and {f['spill_loads']:,} loaded, constant "
            f"{f['constant']:,}, code {f['code']:,}"
        )
    if arch.occupancy is not None:
        full, offered = arch.occupancy, limits(arch.arch)
        yield (
            f"occupancy {full.fraction:.0%} predicted: {full.active_blocks} blocks, "
            f"{full.active_warps} of {offered.warps} warps; limited by {full.limiter}"
        )


def table(plans: Sequence[tuple[Mapping[str, str], Plan]]) -> str:
    """Return several plans as a table, one row each; empty columns are left out.

    Parameters
    ----------
    plans : sequence of (mapping, Plan)
        Columns that distinguish the plan, and the plan.
    """
    rows = [{**columns, **plan.row()} for columns, plan in plans]
    empty = {name for name in rows[0] if all(row.get(name, "-") == "-" for row in rows)}
    return text_table([{n: c for n, c in row.items() if n not in empty} for row in rows])
