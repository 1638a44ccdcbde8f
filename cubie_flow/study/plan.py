"""What a study will take: shards, memory and disk, before anything runs."""

from __future__ import annotations

from pathlib import Path

from cubie_flow.kernels.kernel import BatchSolverKernel
from cubie_flow.storage import Location, StoreSchema, Variable, plan_shards
from cubie_flow.storage.layout import SHARD_BYTES, ShardPlan
from cubie_flow.storage.schema import PER_RUN
from cubie_flow.study.accuracy import accuracy
from cubie_flow.study.kernel import build_kernel, tolerances
from cubie_flow.study.plan_text import Amount, Plan, make_plan
from cubie_flow.study.store_schema import coordinate_name, counters, schema, variables
from cubie_flow.study.study import Study

#: Bytes of one shard's arrays over all variables; four shards may be in memory at once.
SHARD_MEMORY = 160_000_000


def shard_plan(study: Study, held: StoreSchema) -> ShardPlan:
    """Return how the study's runs are cut into shards that bound the memory in use."""
    largest = held.bytes_per_run_largest_variable
    per_run = max(1, held.total_bytes // held.runs)
    limit = min(SHARD_BYTES, max(largest, SHARD_MEMORY * largest // per_run))
    return plan_shards(held.runs, largest, shard_runs=study.shard_runs, shard_bytes=limit)


def amount_of(study: Study) -> Amount:
    """Return what a study comes to; no kernel is made for it."""
    names = (*study.design.names, *study.design.labels)
    held = StoreSchema(
        runs=study.design.size,
        variables=variables(study),
        status_flags={},
        time=study.times if study.times.size else None,
        coordinates=tuple(Variable(coordinate_name(study, name), PER_RUN) for name in names),
        counters=counters(study),
    )
    return Amount(held.runs, shard_plan(study, held).count, held.total_bytes)


def plan_study(
    study: Study, folder: str | Path | Location = ".", *, compiling: bool = True
) -> Plan:
    """Return the plan of a study: every byte it will take, without running it.

    Parameters
    ----------
    study : Study
    folder : path, URL or Location
        Where the result would go.
    compiling : bool
        Ask the CUDA compiler for its figures of every architecture in ``target.arch``.
    """
    kernel = build_kernel(study)
    kernel.run_time_settings(tolerances(study.controller))
    return plan_with(study, kernel, Location.of(folder), compiling)


def plan_with(study: Study, kernel: BatchSolverKernel, place: Location, compiling: bool) -> Plan:
    """Return the plan of a study whose kernel is made; see `plan_study`."""
    title = study.system.title or study.system.name
    how = [study.algorithm, study.precision, *filter(None, [accuracy(study)])]
    return make_plan(
        f"{study.name}: {title}, {', '.join(how)}",
        kernel,
        schema(study, kernel, {}),
        lambda held: shard_plan(study, held),
        study.span,
        place,
        compiling,
    )
