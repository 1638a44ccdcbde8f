"""Shards that differ from their checksums: what is found, and how it is printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from cubie_flow.console.paths import resume_command

if TYPE_CHECKING:
    from cubie_flow.storage import ResultStore

#: Word of a resumption that solves damaged shards again.
RECHECK = "recheck=true"


@frozen
class Verification:
    """The shards of a store, compared with their checksums.

    Attributes
    ----------
    shards, complete : int
    damaged : list of dict
        The number of each damaged shard, and its first and last run.
    """

    shards: int
    complete: int
    damaged: list[dict[str, int]]

    @classmethod
    def of(cls, store: ResultStore) -> Verification:
        """Compare every complete shard of a store with its checksum.

        Raises
        ------
        FlowError
            If a file of the store is missing or damaged.
        """
        store.refuse_gaps()
        complete, runs = store.completed(), store.plan.shards
        damaged = [
            {"shard": index, "first_run": runs[index][0], "last_run": runs[index][1] - 1}
            for index in store.damaged()
        ]
        return cls(len(runs), len(complete), damaged)

    def show(self, folder: Path, again: Sequence[str] = ()) -> None:
        """Print it, and the command that solves what is missing or damaged.

        Parameters
        ----------
        folder : Path
        again : sequence of str
            Words that the command needs in addition.
        """
        damaged = len(self.damaged)
        print(f"{self.complete:,} of {self.shards:,} shards complete, {damaged:,} of them damaged")
        for row in self.damaged:
            runs = f"runs {row['first_run']:,} to {row['last_run']:,}"
            print(f"damaged: shard {row['shard']}, {runs}")
        if damaged or self.complete < self.shards:
            words = [RECHECK] if damaged else []
            print(f"{resume_command(folder, [*words, *again])} does the rest")
