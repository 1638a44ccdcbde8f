"""The cut into shards: it covers every run once, in whole chunks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cubie_flow.errors import FlowError
from cubie_flow.storage import ShardPlan, plan_shards
from cubie_flow.storage.layout import CHUNK_BYTES, MINIMUM_SHARDS, SHARD_BYTES

quick = settings(derandomize=True, deadline=None, max_examples=300)
RUNS = st.integers(1, 10**7)
BYTES = st.integers(1, 10**6)


@quick
@given(runs=RUNS, width=BYTES)
def test_shards_cover_the_runs_exactly_and_keep_the_rule(runs: int, width: int) -> None:
    plan = plan_shards(runs, width)
    assert plan.shard_runs % plan.chunk_runs == 0
    assert plan.chunk_runs * width <= max(CHUNK_BYTES, width)
    assert plan.shard_runs * width <= max(SHARD_BYTES, width)
    chunks = -(-runs // plan.chunk_runs)
    count = -(-runs // plan.shard_runs)
    assert count >= min(MINIMUM_SHARDS, chunks)
    if count < 10_000:
        assert len(plan.shards) == count
        edges = [0, *(stop for _, stop in plan.shards)]
        assert [start for start, _ in plan.shards] == edges[:-1]
        assert edges[-1] == runs
        assert all(start % plan.shard_runs == 0 for start, _ in plan.shards)


@quick
@given(runs=RUNS, width=st.integers(1, 4000), asked=st.integers(1, 10**6))
def test_an_asked_shard_is_rounded_up_to_whole_chunks(runs: int, width: int, asked: int) -> None:
    plan = plan_shards(runs, width, shard_runs=asked)
    assert plan.shard_runs % plan.chunk_runs == 0
    assert 0 <= plan.shard_runs - min(asked, runs) < plan.chunk_runs


def test_an_asked_shard_keeps_its_size_where_chunks_divide_it() -> None:
    plan = plan_shards(20_000, 804, shard_runs=5000)
    assert (plan.chunk_runs, plan.shard_runs) == (1250, 5000)
    assert plan_shards(20_000, 804, shard_runs=4999).shard_runs == 5001


@quick
@given(runs=RUNS, width=st.integers(8, 4000), narrow=st.integers(1, 8))
def test_narrow_variables_get_whole_multiples_of_the_chunk(
    runs: int, width: int, narrow: int
) -> None:
    plan = plan_shards(runs, width)
    chunk = plan.chunk_runs_for(narrow, CHUNK_BYTES)
    assert chunk % plan.chunk_runs == 0
    assert plan.shard_runs % chunk == 0
    assert chunk * narrow <= max(CHUNK_BYTES, plan.chunk_runs * narrow)


def test_the_measured_study_is_cut_as_measured() -> None:
    plan = plan_shards(1_000_000, 400)
    assert (plan.chunk_runs, plan.shard_runs, len(plan.shards)) == (5_000, 100_000, 10)


def test_a_study_smaller_than_a_chunk_is_one_shard() -> None:
    assert plan_shards(1000, 400).shards == [(0, 1000)]


@pytest.mark.parametrize("key", ["runs", "bytes_per_run_largest_variable", "shard_runs"])
def test_numbers_that_are_not_positive_are_named(key: str) -> None:
    arguments = {"runs": 10, "bytes_per_run_largest_variable": 8, key: 0}
    with pytest.raises(FlowError, match=f"{key} must be at least 1, not 0"):
        plan_shards(**arguments)


def test_a_shard_of_broken_chunks_is_refused() -> None:
    with pytest.raises(FlowError, match="not a whole number of chunks"):
        ShardPlan(runs=100, chunk_runs=10, shard_runs=25)
