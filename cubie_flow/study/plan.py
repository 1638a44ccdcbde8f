"""The plan of a study: the store, the shards and every byte, before anything runs.

A plan is computed once. `cubie_flow.study.plan_text` prints it and `cubie_flow.study.run.run`
executes it, so what was printed is what happens.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
from attrs import evolve, field, frozen

from cubie_flow.errors import FlowError
from cubie_flow.kernels.kernel import BatchSolverKernel
from cubie_flow.kernels.plan import KernelPlan, plan_kernel
from cubie_flow.kernels.targets.cpu_program import ALIGNMENT
from cubie_flow.process.machine import available_memory, free_disk, process_memory
from cubie_flow.storage import Location, StoreSchema, plan_shards
from cubie_flow.storage.layout import AT_ONCE, SHARD_BYTES, ShardPlan
from cubie_flow.storage.schema import PER_RUN_AND_TIME
from cubie_flow.study.accuracy import accuracy
from cubie_flow.study.device_need import DeviceNeed
from cubie_flow.study.host_need import shard_run
from cubie_flow.study.kernel import build_kernel
from cubie_flow.study.plan_text import Amount, plan_row, plan_text, size_text
from cubie_flow.study.store_schema import store_outline, store_schema
from cubie_flow.study.study import Study

#: Bytes of one shard's arrays over all variables; four shards may be in memory at once.
SHARD_MEMORY = 160_000_000
#: Shards in memory at once: one being solved, two waiting for the writer, one being written.
SHARDS_IN_MEMORY = 4
#: Least bytes of a shard where memory is scarce; smaller ones save little.
LEAST_MEMORY = 10_000_000
#: What building a kernel and the libraries of a run add to a process that has only planned: 175 MB
#: with a kernel of the cache, 235 MB with one that is compiled (``python -m benchmarks memory``).
WORKING = 215_000_000
#: Encoded chunks and what they are joined to, by the bytes of the arrays that are encoded at once.
ENCODING = 1.75
#: Arrays below this size come from heaps of the allocator (glibc maps larger ones one by one). The
#: heaps keep about this many times the largest array of a shard.
MAPPED, KEPT = 32 << 20, 3


@frozen
class Plan:
    """What a study will take, and how it is run.

    Attributes
    ----------
    study : Study
    location : Location
        Where the result goes.
    kernel : KernelPlan
    schema : StoreSchema
        What the store will hold.
    shard_plan : ShardPlan
        How the runs are divided into shards.
    input_run : int
        Bytes of memory that the inputs of one run take.
    disk_free : int
    host_bytes, host_available : int
        Estimated peak memory of the process, and what the machine has left for it.
    device_slabs, device_local : int
        Memory of the GPU: of the pieces of a shard, and the local memory of all threads that the
        GPU holds; 0 without one. The second is an estimate until the kernel is compiled.
    device_memory : int
        What the GPU has.
    problems : tuple of str
        What cannot fit, with numbers and the smallest changes that would; empty where all does.
    solver : BatchSolverKernel, optional
        The kernel that was planned; None if it is to be built when the plan is run.
    """

    study: Study = field(repr=False)
    location: Location
    kernel: KernelPlan
    schema: StoreSchema = field(repr=False)
    shard_plan: ShardPlan
    input_run: int
    disk_free: int
    host_bytes: int
    host_available: int
    device_slabs: int
    device_local: int
    device_memory: int
    problems: tuple[str, ...]
    solver: BatchSolverKernel | None = field(default=None, repr=False, eq=False)

    @property
    def title(self) -> str:
        """Name, model, method and accuracy of the study."""
        study = self.study
        title = study.system.title or study.system.name
        parts = [title, study.algorithm, study.precision, *filter(None, [accuracy(study)])]
        return f"{study.name}: {', '.join(parts)}"

    @property
    def runs(self) -> int:
        """Runs of the study."""
        return self.schema.runs

    @property
    def shards(self) -> int:
        """Number of shards."""
        return self.shard_plan.count

    @property
    def shard_runs(self) -> int:
        """Runs of one shard."""
        return self.shard_plan.shard_runs

    @property
    def shard_bytes(self) -> int:
        """Bytes of one shard in memory."""
        return self.shard_runs * _run_bytes(self.schema, self.input_run)

    @property
    def shards_in_memory(self) -> int:
        """Shards that may be in memory at once."""
        return min(SHARDS_IN_MEMORY, self.shards)

    @property
    def output_run(self) -> int:
        """Bytes of memory that the results of one run take."""
        return _run_bytes(self.schema, 0)

    @property
    def store_bytes(self) -> int:
        """Bytes of the result before compression, which is the most it can be."""
        return self.schema.total_bytes

    @property
    def device_bytes(self) -> int:
        """Bytes that a shard takes on the GPU."""
        return self.device_slabs + self.device_local

    @property
    def local(self) -> bool:
        """Whether the result goes to a disk of this machine."""
        return "://" not in self.location.name

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

    def text(self) -> str:
        """Return the plan as lines to read."""
        return plan_text(self)

    def row(self) -> dict[str, str]:
        """Return the plan as one row of a table, column to text."""
        return plan_row(self)

    def measurable(self, threads: int) -> dict[str, int]:
        """Return the predictions that a run also measures, by their names in a store.

        Parameters
        ----------
        threads : int
            CPU threads the run may use.
        """
        kernel, predicted = self.kernel, {}
        if kernel.target == "cpu":
            threads = min(threads, -(-self.shard_runs // kernel.lanes))
            predicted["predicted_buffer_bytes_per_thread"] = kernel.thread_bytes
            predicted["predicted_buffer_bytes"] = threads * (kernel.thread_bytes + ALIGNMENT)
            predicted["predicted_threads"] = threads
        return {
            **predicted,
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
        taken = f"{share:.2%} of it" if share <= 1 else f"{share:,.1f} times what is available"
        limits = [f"{name} ({taken})"]
        for arch in self.kernel.architectures:
            if arch.problem:
                limits.append(f"{arch.arch}: shared memory of a block")
            elif arch.occupancy is not None:
                limits.append(f"{arch.arch}: {arch.occupancy.limiter}")
        return "; ".join(limits)


# how a study is divided -----------------------------------------------------------------------


def shard_plan(study: Study, schema: StoreSchema, memory: int = SHARD_MEMORY) -> ShardPlan:
    """Return how the runs of a study are divided into shards that bound the memory in use.

    Parameters
    ----------
    study : Study
    schema : StoreSchema
        What the store will hold.
    memory : int
        Bytes of one shard's arrays over all variables.
    """
    largest = schema.bytes_per_run_largest_variable
    per_run = max(1, schema.total_bytes // schema.runs)
    limit = min(SHARD_BYTES, max(largest, memory * largest // per_run))
    return plan_shards(schema.runs, largest, shard_runs=study.shard_runs, shard_bytes=limit)


#: Outline and shards of studies that are alive, by identity: a command asks for the size of a study
#: before it plans it.
_outlines: dict[int, tuple[StoreSchema, ShardPlan]] = {}


def _outline(study: Study) -> tuple[StoreSchema, ShardPlan]:
    """Return the arrays of a study's store and its shards, computed once for each study."""
    key = id(study)
    if key not in _outlines:
        outline = store_outline(study)
        _outlines[key] = outline, shard_plan(study, outline)
        weakref.finalize(study, _outlines.pop, key, None).atexit = False
    return _outlines[key]


def amount_of(study: Study) -> Amount:
    """Return the size of a study; no kernel is made for it."""
    outline, shards = _outline(study)
    return Amount(outline.runs, shards.count, outline.total_bytes)


# planning -------------------------------------------------------------------------------------


def plan_study(
    study: Study, folder: str | Path | Location = ".", *, compiling: bool = True
) -> Plan:
    """Return the plan of a study: every byte it will take, without running it.

    Parameters
    ----------
    study : Study
    folder : path, URL or Location
        Where the result would go; it need not exist. An object store is taken to have no end.
    compiling : bool
        Ask the CUDA compiler for its statistics of every architecture in ``target.arch``.

    Raises
    ------
    FlowError
        If the study asks for what its system, method or target does not have.
    """
    plan = plan_with(study, build_kernel(study), Location.of(folder), compiling)
    # A kernel is large, and many jobs may be planned together.
    return evolve(plan, solver=None)


def plan_with(study: Study, kernel: BatchSolverKernel, location: Location, compiling: bool) -> Plan:
    """Return the plan of a study whose kernel is made.

    Parameters
    ----------
    study, location, compiling
        See `plan_study`.
    kernel : BatchSolverKernel
        The kernel of the study; its run-time settings are set.
    """
    kernel_plan = plan_kernel(kernel, compiling)
    need = _Need(study, kernel, kernel_plan)
    outline, _ = _outline(study)
    schema = store_schema(outline, study, kernel)
    folder = location.path
    disk, host = sys.maxsize if folder is None else free_disk(folder), available_memory()
    need.shrink(schema, host)
    shards = need.shards(schema)
    problems = []
    if kernel.target == "cuda":
        first = kernel_plan.architectures[:1]
        problems += [f"{arch.arch}: {arch.problem}" for arch in first if arch.problem]
    problems += need.problems(schema, location.name, disk, host)
    slabs, local = need.device.bytes(shards.shard_runs, schema.runs)
    return Plan(
        study=study,
        location=location,
        kernel=kernel_plan,
        schema=schema,
        shard_plan=shards,
        input_run=need.inputs,
        disk_free=disk,
        host_bytes=need.host_bytes(schema),
        host_available=host,
        device_slabs=slabs,
        device_local=local,
        device_memory=need.device.memory,
        problems=tuple(problems),
        solver=kernel,
    )


Bytes = Callable[[StoreSchema], int]


class _Need:
    """Memory that the stores of a study and of smaller ones need.

    Parameters
    ----------
    study : Study
    kernel : BatchSolverKernel
    plan : KernelPlan
    """

    def __init__(self, study: Study, kernel: BatchSolverKernel, plan: KernelPlan) -> None:
        self.study, self.kernel = study, kernel
        self.shard_runs, self.shard_memory = study.shard_runs, SHARD_MEMORY
        # The table itself, and the part of it that a batch gets.
        self.base = process_memory() + WORKING + 4 * study.record_bytes
        self.device = DeviceNeed.of(study, kernel, plan)
        self.inputs = self.device.shape.real * len(kernel.run.rows)
        self.inputs += 8 * len((*study.design.names, *study.design.labels))

    def shards(self, schema: StoreSchema) -> ShardPlan:
        """Return the shards of a store, whose size `shrink` may have reduced."""
        study = evolve(self.study, shard_runs=self.shard_runs)
        return shard_plan(study, schema, self.shard_memory)

    def shrink(self, schema: StoreSchema, available: int) -> None:
        """Make shards smaller until they fit the memory, unless their size is given."""
        while (
            self.shard_runs is None
            and self.shard_memory > LEAST_MEMORY
            and self.host_bytes(schema) > available
        ):
            self.shard_memory //= 2

    def host_bytes(self, schema: StoreSchema) -> int:
        """Return the estimated peak memory of the process."""
        shards = self.shards(schema)
        solved, written = shard_run(self.study, self.kernel, schema)
        others = min(SHARDS_IN_MEMORY, shards.count) - 1
        largest = sorted(map(schema.bytes_per_run, schema.arrays))[-AT_ONCE:]
        encoding = int(ENCODING * shards.shard_runs * sum(largest))
        array = shards.shard_runs * schema.bytes_per_run_largest_variable
        kept = KEPT * array if array < MAPPED else 0
        return self.base + shards.shard_runs * (solved + others * written) + encoding + kept

    def _smaller_shards(self, schema: StoreSchema, available: int) -> str:
        """Return the key with the largest shards that fit the memory; empty without such ones."""
        given = self.shard_runs
        if given is None or self.host_bytes(schema) <= available:
            return ""

        def fits(runs: int) -> bool:
            self.shard_runs = runs
            return self.host_bytes(schema) <= available

        most = _most(given - 1, fits)
        self.shard_runs = given
        return f"storage.shard_runs={most}" if most else ""

    def problems(self, schema: StoreSchema, name: str, disk: int, host: int) -> list[str]:
        """Return what does not fit, one sentence each, with the changes that would."""
        limits: list[tuple[str, str, Bytes, int]] = [
            (
                f"the result needs up to {{}} of disk, but '{name}' has {{}} free",
                "a storage.folder on a larger disk",
                lambda schema: schema.total_bytes,
                disk,
            ),
            (
                "solving needs {} of memory, but {} are available",
                self._smaller_shards(schema, host),
                self.host_bytes,
                host,
            ),
        ]
        problems = [self.device.problem] if self.device.problem else []
        if self.device.memory and not problems:
            sentence = "a run needs {} of GPU memory, but a piece of a batch can have {}"
            limits.append((sentence, "", self.device.run_bytes, self.device.room))
        for sentence, other, need, limit in limits:
            if need(schema) > limit:
                changes = _changes(schema, need, limit, self.study.span)
                changes += [other] if other else []
                advice = f"; {' or '.join(changes)} would fit" if changes else ""
                numbers = size_text(need(schema)), size_text(limit)
                problems.append(sentence.format(*numbers) + advice)
        return problems


def _run_bytes(schema: StoreSchema, inputs: int) -> int:
    """Return the bytes of one run in memory: inputs, results, status and step counts."""
    return inputs + 13 + sum(schema.bytes_per_run(variable) for variable in schema.variables)


def _changes(schema: StoreSchema, need: Bytes, limit: int, span: float) -> list[str]:
    """Return the single changes, each as small as can be, that would make a study fit."""

    def fits(**changes: object) -> bool:
        return need(evolve(schema, **changes)) <= limit  # type: ignore[arg-type]

    changes = []
    runs = _most(schema.runs - 1, lambda n: fits(runs=n))
    if runs:
        changes.append(f"batch.size={runs}")
    if schema.time is not None:
        time = schema.time
        times = _most(time.size - 1, lambda n: fits(time=time[:n]))
        if times > 1:
            every = np.allclose(np.diff(time), time[1] - time[0])
            step = f"output.save_every={_rounded_up(span / (times - 1))}"
            changes.append(step if every else f"{times} saved times")
        timed = [v for v in schema.variables if v.dims == PER_RUN_AND_TIME]
        rest = [v for v in schema.variables if v.dims != PER_RUN_AND_TIME]
        names = _most(len(timed) - 1, lambda n: fits(variables=[*timed[:n], *rest]))
        if names:
            changes.append(f"output.variables of {names} name{'s'[: names > 1]}")
    if any(v.dtype.itemsize == 8 for v in schema.variables):
        halved = [evolve(v, dtype="float32") for v in schema.variables]
        if fits(variables=halved):
            changes.append("precision=float32")
    return changes


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


def refuse_disk(needed: int, location: Location) -> None:
    """Refuse results that several studies together cannot store.

    Parameters
    ----------
    needed : int
        Bytes of all results.
    location : Location
        Where they go.

    Raises
    ------
    FlowError
        If the disk does not have so many bytes free.
    """
    if location.path is not None and needed > (free := free_disk(location.path)):
        raise FlowError(
            f"the results of all jobs need up to {size_text(needed)} of disk, but "
            f"'{location.name}' has {size_text(free)} free; a storage.folder on a larger disk "
            "would fit"
        )
