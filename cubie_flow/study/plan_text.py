"""The plan of a study: every byte before anything runs, and what to change where it cannot fit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import evolve, frozen

from cubie_flow.console.tables import text_table
from cubie_flow.errors import FlowError
from cubie_flow.kernels.kernel import BatchSolverKernel
from cubie_flow.kernels.plan import ArchPlan, KernelPlan, plan_kernel
from cubie_flow.kernels.targets.cpu import ALIGNMENT
from cubie_flow.kernels.targets.cuda import piece_runs, resident_threads
from cubie_flow.kernels.targets.detect import cuda_devices
from cubie_flow.memory.occupancy import limits
from cubie_flow.process.machine import available_memory, free_disk, process_memory
from cubie_flow.storage import Location, ShardPlan, StoreSchema
from cubie_flow.storage.layout import AT_ONCE
from cubie_flow.storage.schema import PER_RUN_AND_TIME

Cut = Callable[[StoreSchema], ShardPlan]
#: Shards in memory at once: one being solved, two waiting for the writer, one being written.
HELD = 4
#: What building a kernel and the libraries of a run add to a process that has only planned.
WORKING = 260_000_000


@frozen
class Amount:
    """How much a study, or several together, come to: runs, shards, bytes before compression."""

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
        return (
            f"{_count(self.runs, 'run')} in {_count(self.shards, 'shard')}, with results of at "
            f"most {_size(self.store_bytes)} before compression"
        )

    def above(self, engine: Mapping[str, Any]) -> str:
        """Return the limits of ``engine`` that ask for ``confirm=true`` and are exceeded."""
        sizes = {"confirm_runs": self.runs, "confirm_bytes": self.store_bytes}
        over = [f"engine.{k}={engine[k]:,}" for k, size in sizes.items() if size > engine[k]]
        return " and ".join(over)


@frozen
class Plan:
    """What a study will take.

    Attributes
    ----------
    title : str
    kernel : KernelPlan
    runs : int
    input_run, output_run : int
        Bytes one run takes in and gives, in memory.
    store_bytes : int
        Of the result before compression, which is the most it can be.
    disk_free : int
    shards, shard_runs : int
        Into how many pieces the runs are cut, and how long one is.
    shard_bytes : int
        Of one piece in memory.
    host_bytes, host_available : int
        Estimated peak memory of the process, and what the machine has left for it.
    device_bytes, device_memory : int
        Of one piece on the GPU, and what the GPU has; 0 without one.
    problems : tuple of str
        What cannot fit, with numbers and the smallest changes that would; empty where all does.
    place : str
        Where the result goes, a folder or a URL.
    """

    title: str
    kernel: KernelPlan
    runs: int
    input_run: int
    output_run: int
    store_bytes: int
    disk_free: int
    shards: int
    shard_runs: int
    shard_bytes: int
    host_bytes: int
    host_available: int
    device_bytes: int
    device_memory: int
    problems: tuple[str, ...]
    place: str

    @property
    def local(self) -> bool:
        """Whether the result goes to a disk of this machine."""
        return "://" not in self.place

    @property
    def amount(self) -> Amount:
        """Runs, shards and bytes."""
        return Amount(self.runs, self.shards, self.store_bytes)

    def refuse(self) -> None:
        """Raise what cannot fit.

        Raises
        ------
        FlowError
            In one sentence.
        """
        if self.problems:
            raise FlowError("; and ".join(self.problems))

    def measurable(self, threads: int) -> dict[str, int]:
        """Return what a run measures too, by the names under which a store keeps it.

        Parameters
        ----------
        threads : int
            CPU threads the run may use.
        """
        kernel, found = self.kernel, {}
        if kernel.target == "cpu":
            threads = min(threads, -(-self.shard_runs // kernel.lanes))
            found["predicted_buffer_bytes_per_thread"] = kernel.thread_bytes
            found["predicted_buffer_bytes"] = threads * (kernel.thread_bytes + ALIGNMENT)
            found["predicted_threads"] = threads
        return {
            **found,
            "predicted_host_bytes": self.host_bytes,
            "predicted_device_bytes": self.device_bytes,
            "predicted_store_bytes": self.store_bytes,
            "predicted_shard_bytes": self.shard_bytes,
        }

    @property
    def binding(self) -> str:
        """What would run out first if the study grew, and what limits the speed of a GPU."""
        shares = {"host memory": self.host_bytes / max(self.host_available, 1)}
        if self.local:
            shares["free disk"] = self.store_bytes / max(self.disk_free, 1)
        if self.device_memory:
            shares["GPU memory"] = self.device_bytes / self.device_memory
        name = max(shares, key=lambda key: shares[key])
        share = shares[name]
        taken = f"{share:.2%} of it" if share <= 1 else f"{share:,.1f} times what there is"
        found = [f"{name} ({taken})"]
        for arch in self.kernel.architectures:
            if arch.problem:
                found.append(f"{arch.arch}: shared memory of a block")
            elif arch.occupancy is not None:
                found.append(f"{arch.arch}: {arch.occupancy.limiter}")
        return "; ".join(found)

    def text(self) -> str:
        """Return the plan as lines to read."""
        kernel = self.kernel
        lanes = f", {kernel.lanes} lanes a core" if kernel.target == "cpu" else ""
        lines = [f"{'plan':<8} {self.title}, on {kernel.target}{lanes}", ""]
        lines.append(text_table(list(_buffer_rows(kernel))))
        lines.append("")
        shared, local, persistent = kernel.arena_bytes
        rows = [
            (
                "shared",
                f"{shared:,} bytes a run ({kernel.shared_elements:,} elements of "
                f"{kernel.precision}), stride {kernel.stride:,}: {kernel.stride_reason}",
            ),
            (
                "local",
                f"{local + persistent:,} bytes a run, {persistent:,} of them kept between steps",
            ),
        ]
        if kernel.target == "cpu":
            rows.append(("arena", f"{kernel.thread_bytes:,} bytes a CPU thread, all lanes"))
        for arch in kernel.architectures:
            rows += [(arch.arch, line) for line in _arch_lines(arch, kernel.block_size)]
        rows += [
            ("runs", f"{self.runs:,}; each {self.input_run:,} bytes in, {self.output_run:,} out"),
            (
                "store",
                f"at most {_size(self.store_bytes)}, before compression, "
                + (f"of {_size(self.disk_free)} free" if self.local else f"in {self.place}"),
            ),
            (
                "shards",
                f"{self.shards:,} of {self.shard_runs:,} runs, {_size(self.shard_bytes)} each "
                f"in memory, at most {min(HELD, self.shards)} at once",
            ),
            (
                "host",
                f"at most about {_size(self.host_bytes)} at the peak, of "
                f"{_size(self.host_available)} available",
            ),
        ]
        if self.device_memory:
            rows.append(
                ("GPU", f"{_size(self.device_bytes)} a shard, of {_size(self.device_memory)}")
            )
        rows.append(("binds", self.binding))
        previous = ""
        for name, text in rows:
            lines.append(f"{'' if name == previous else name:<8} {text}")
            previous = name
        return "\n".join(lines)

    def row(self) -> dict[str, str]:
        """Return the plan as one row of a table, column to text."""
        kernel = self.kernel
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
            cells[f"occupancy{suffix}"] = (
                "-" if full is None else f"{full.fraction:.0%} {full.limiter}"
            )
        cells.update(
            runs=f"{self.runs:,}",
            shards=f"{self.shards:,}",
            store=_size(self.store_bytes),
            host=_size(self.host_bytes),
            fits="no" if self.problems else "yes",
        )
        return cells


def make_plan(
    title: str,
    kernel: BatchSolverKernel,
    held: StoreSchema,
    cut: Cut,
    span: float,
    place: Location,
    compiling: bool = True,
) -> Plan:
    """Return the plan of a study without running it.

    Parameters
    ----------
    title : str
    kernel : BatchSolverKernel
    held : StoreSchema
        What the store will hold.
    cut : callable
        From what a store holds to how its runs are cut.
    span : float
        Duration of the longest run, for advice on ``output.save_every``.
    place : Location
        Where the store goes; it need not exist. An object store is taken to have no end.
    compiling : bool
        Ask the CUDA compiler.
    """
    base = process_memory() + WORKING
    planned = plan_kernel(kernel, compiling)
    shards = cut(held)
    inputs = len(kernel.run.rows) * _item(kernel) + 8 * len(held.coordinates)
    device = 0
    if kernel.target == "cuda" and kernel.settings.device < len(cuda_devices()):
        device = cuda_devices()[kernel.settings.device].memory
    folder, host = place.path, available_memory()
    disk = sys.maxsize if folder is None else free_disk(folder)

    def host_bytes(held: StoreSchema) -> int:
        plan = cut(held)
        of_shard = plan.shard_runs * _memory_run(held, inputs)
        # Encoded chunks and what they are joined to, no smaller where nothing can be compressed.
        largest = plan.shard_runs * held.bytes_per_run_largest_variable
        encoding = 2 * min(AT_ONCE, len(held.arrays)) * largest
        return base + min(HELD, plan.count) * of_shard + encoding

    def device_run(held: StoreSchema) -> int:
        # Samples are there twice: as they are written, and turned.
        sampled = sum(held.bytes_per_run(v) for v in held.variables if v.dims == PER_RUN_AND_TIME)
        return sampled + _memory_run(held, len(kernel.run.rows) * _item(kernel))

    def device_bytes(held: StoreSchema) -> int:
        count, each = cut(held).shard_runs, device_run(held)
        resident = resident_threads(kernel.settings.device)
        return min(count, 2 * piece_runs(count, each, device, resident)) * each

    problems = []
    if kernel.target == "cuda":
        problems += [f"{arch.arch}: {arch.problem}" for arch in planned.architectures[:1]
                     if arch.problem]  # fmt: skip
    needs: list[tuple[str, str, Callable[[StoreSchema], int], int]] = [
        (
            f"the result needs up to {{}} of disk, but '{place.name}' has {{}} free",
            "a storage.folder on a larger disk",
            lambda held: held.total_bytes,
            disk,
        ),
        ("solving needs {} of memory, but {} are available", "", host_bytes, host),
    ]
    if device:
        needs.append(
            ("a run needs {} of GPU memory, but there are {}", "", device_run, device // 3)
        )
    for sentence, other, of, limit in needs:
        if of(held) > limit:
            changes = _changes(held, lambda held, of=of, limit=limit: of(held) <= limit, span)  # type: ignore[misc]
            changes += [other] if other else []
            advice = f"; {' or '.join(changes)} would fit" if changes else ""
            problems.append(sentence.format(_size(of(held)), _size(limit)) + advice)
    return Plan(
        title=title,
        kernel=planned,
        runs=held.runs,
        input_run=inputs,
        output_run=_memory_run(held, 0),
        store_bytes=held.total_bytes,
        disk_free=disk,
        shards=shards.count,
        shard_runs=shards.shard_runs,
        shard_bytes=shards.shard_runs * _memory_run(held, inputs),
        host_bytes=host_bytes(held),
        host_available=host,
        device_bytes=device_bytes(held) if device and 3 * device_run(held) <= device else 0,
        device_memory=device,
        problems=tuple(problems),
        place=place.name,
    )


def _item(kernel: BatchSolverKernel) -> int:
    return 4 if kernel.settings.precision == "float32" else 8


def _memory_run(held: StoreSchema, inputs: int) -> int:
    """Bytes one run takes in memory: inputs, results, and status and step counts."""
    return inputs + 13 + sum(held.bytes_per_run(variable) for variable in held.variables)


def _changes(held: StoreSchema, fits: Callable[[StoreSchema], bool], span: float) -> list[str]:
    """Return the single changes, each as small as can be, that would make a study fit."""
    found = []
    runs = _most(held.runs - 1, lambda n: fits(evolve(held, runs=n)))
    if runs:
        found.append(f"batch.size={runs}")
    if held.time is not None:
        time = held.time
        times = _most(time.size - 1, lambda n: fits(evolve(held, time=time[:n])))
        if times > 1:
            every = np.allclose(np.diff(time), time[1] - time[0])
            step = f"output.save_every={_rounded_up(span / (times - 1))}"
            found.append(step if every else f"{times} saved times")
        timed = [v for v in held.variables if v.dims == PER_RUN_AND_TIME]
        rest = [v for v in held.variables if v.dims != PER_RUN_AND_TIME]
        names = _most(len(timed) - 1, lambda n: fits(evolve(held, variables=[*timed[:n], *rest])))
        if names:
            found.append(f"output.variables of {names} name{'s'[: names > 1]}")
    if any(v.dtype.itemsize == 8 for v in held.variables):
        halved = [evolve(v, dtype="float32") for v in held.variables]
        if fits(evolve(held, variables=halved)):
            found.append("precision=float32")
    return found


def _most(upper: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number from 1 to `upper` that fits, or 0."""
    low, high = 0, max(upper, 0)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _rounded_up(value: float) -> str:
    text = f"{value:.3g}"
    return text if float(text) >= value else f"{value * 1.005:.3g}"


# text -----------------------------------------------------------------------------------------


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _size(count: int) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count} bytes"


def _buffer_rows(kernel: KernelPlan) -> list[dict[str, str]]:
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


def _arch_lines(arch: ArchPlan, wished: int) -> Iterable[str]:
    if arch.problem:
        yield f"does not fit: {arch.problem}"
    if arch.fit is not None:
        fit = arch.fit
        why = f"{wished} halved {fit.halvings}x to fit" if fit.halvings else "as wished, fits"
        yield (
            f"block {fit.block_size} ({why}), {fit.shared_bytes:,} of {arch.shared_limit:,} "
            "bytes of shared memory"
        )
    if arch.missing:
        yield f"no compiler figures: {arch.missing}"
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
    """Return several plans as a table, one row each; columns that say nothing are left out.

    Parameters
    ----------
    plans : sequence of (mapping, Plan)
        Columns that tell each from the others, and the plan.
    """
    rows = [{**told, **plan.row()} for told, plan in plans]
    empty = {name for name in rows[0] if all(row.get(name, "-") == "-" for row in rows)}
    return text_table([{n: c for n, c in row.items() if n not in empty} for row in rows])


def refuse_disk(needed: int, place: Location) -> None:
    """Refuse results that several studies together cannot store.

    Raises
    ------
    FlowError
        If the disk has not so many bytes free.
    """
    if place.path is not None and needed > (free := free_disk(place.path)):
        raise FlowError(
            f"the results of all jobs need up to {_size(needed)} of disk, but '{place.name}' has "
            f"{_size(free)} free; a storage.folder on a larger disk would fit"
        )
