"""The division of a store into shards and chunks.

A shard is the unit of work, commit and resume, and has one writer. Of the layouts measured on
10^6 runs x 100 times x 10 variables, chunks of about 2 MB in shards of about 40 MB, with one array
per variable, were the fastest to write and for both common reads (one run, or one variable of all
runs).
"""

from __future__ import annotations

from attrs import frozen

from cubie_flow.errors import FlowError

CHUNK_BYTES = 2_000_000
SHARD_BYTES = 40_000_000
MINIMUM_SHARDS = 8
#: Arrays of a shard that are encoded and written concurrently; memory holds their encoded bytes.
AT_ONCE = 4


@frozen
class ShardPlan:
    """The division of a study's runs into shards.

    Attributes
    ----------
    runs
        Runs of the study.
    chunk_runs
        Runs in one inner chunk of the largest variable; chunks of narrower variables hold a
        multiple of it.
    shard_runs
        Runs in one shard, a multiple of `chunk_runs`; the last shard may hold fewer.
    """

    runs: int
    chunk_runs: int
    shard_runs: int

    def __attrs_post_init__(self) -> None:
        if self.runs < 1 or self.chunk_runs < 1 or self.shard_runs < 1:
            raise FlowError(
                f"a shard plan needs positive numbers of runs, not runs={self.runs}, "
                f"chunk_runs={self.chunk_runs}, shard_runs={self.shard_runs}"
            )
        if self.shard_runs % self.chunk_runs:
            raise FlowError(
                f"shard_runs={self.shard_runs} is not a whole number of chunks of "
                f"{self.chunk_runs} runs"
            )

    @property
    def count(self) -> int:
        """Number of shards, for plans with too many shards to list."""
        return -(-self.runs // self.shard_runs)

    @property
    def shards(self) -> list[tuple[int, int]]:
        """First and one past the last run of every shard, in order."""
        return [
            (start, min(start + self.shard_runs, self.runs))
            for start in range(0, self.runs, self.shard_runs)
        ]

    def chunk_runs_for(self, bytes_per_run: int, chunk_bytes: int) -> int:
        """Return the runs in one inner chunk of a variable of `bytes_per_run`.

        The largest whole multiple of `chunk_runs` that divides the shard and stays within
        `chunk_bytes`, so that narrow arrays do not get tiny chunks.
        """
        pieces = self.shard_runs // self.chunk_runs
        fitting = [
            self.chunk_runs * multiple
            for multiple in range(1, pieces + 1)
            if pieces % multiple == 0 and self.chunk_runs * multiple * bytes_per_run <= chunk_bytes
        ]
        return max(fitting, default=self.chunk_runs)


def plan_shards(
    runs: int,
    bytes_per_run_largest_variable: int,
    *,
    shard_runs: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    shard_bytes: int = SHARD_BYTES,
    minimum_shards: int = MINIMUM_SHARDS,
) -> ShardPlan:
    """Divide a study into shards.

    Chunks hold about `chunk_bytes` of the largest variable. A shard consists of whole chunks and
    at most `shard_bytes`. There are at least `minimum_shards` shards once there are that many
    chunks. A smaller study has one chunk per shard: for so few runs, more files would cost more
    than solving.

    Parameters
    ----------
    runs
        Runs of the study, at least 1.
    bytes_per_run_largest_variable
        Bytes one run adds to the largest variable (saved times x item size).
    shard_runs
        Runs per shard, if the caller chooses it (for few, expensive runs). A shard larger than
        `chunk_bytes` consists of several chunks. If no fitting number of chunks divides it, it is
        rounded up to whole chunks.
    chunk_bytes, shard_bytes, minimum_shards
        Targets and lower bound, as described above.

    Raises
    ------
    FlowError
        If a number is not positive.
    """
    for key, value in (
        ("runs", runs),
        ("bytes_per_run_largest_variable", bytes_per_run_largest_variable),
        ("shard_runs", 1 if shard_runs is None else shard_runs),
        ("chunk_bytes", chunk_bytes),
        ("shard_bytes", shard_bytes),
        ("minimum_shards", minimum_shards),
    ):
        if value < 1:
            raise FlowError(f"{key} must be at least 1, not {value}")
    chunk_runs = min(max(1, chunk_bytes // bytes_per_run_largest_variable), runs)
    if shard_runs is not None:
        shard_runs = min(shard_runs, runs)
        pieces = -(-shard_runs // chunk_runs)
        # Chunks that divide the shard, unless only ones of a quarter of the size do.
        for number in range(pieces, 4 * pieces + 1):
            if shard_runs % number == 0:
                return ShardPlan(runs, shard_runs // number, shard_runs)
        chunk_runs = -(-shard_runs // pieces)
        return ShardPlan(runs, chunk_runs, chunk_runs * pieces)
    chunks = -(-runs // chunk_runs)
    chunks_by_bytes = shard_bytes // (chunk_runs * bytes_per_run_largest_variable)
    # The largest shard that still leaves `minimum_shards` of them: ceil(chunks / k) >= minimum.
    chunks_by_count = (chunks - 1) // (minimum_shards - 1) if minimum_shards > 1 else chunks
    return ShardPlan(runs, chunk_runs, chunk_runs * max(1, min(chunks_by_bytes, chunks_by_count)))
