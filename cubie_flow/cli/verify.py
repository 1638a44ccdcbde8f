"""``verify=FOLDER``: compare the shards of a result with their checksums."""

from __future__ import annotations

from cubie_flow.cli.resume import RECHECK, split_words
from cubie_flow.console.paths import resume_command
from cubie_flow.credentials import OPTIONS, URL
from cubie_flow.errors import FlowError

VERIFY = "verify="


def verify(words: list[str]) -> int:
    """Compare every complete shard of a result with its checksum.

    Parameters
    ----------
    words
        Words of the command line: ``verify=FOLDER``, ``storage.url`` and ``storage.options``.

    Returns
    -------
    int
        The exit code: 1 if shards are missing or damaged.

    Raises
    ------
    FlowError
        If the folder holds no result, or other words are given.
    """
    from cubie_flow.config import stored
    from cubie_flow.storage import ResultStore
    from cubie_flow.storage.index import is_multirun

    folder, others = split_words(words, VERIFY)
    for word in others:
        if not word.lstrip("+").startswith((f"{URL}=", f"{OPTIONS}=", f"{OPTIONS}.")):
            raise FlowError(f"verify=FOLDER takes only {URL} and {OPTIONS} besides, not {word}")
    location = stored.location_of(folder, others)
    again = stored.words_again(others)
    if is_multirun(location):
        from cubie_flow.multirun.stored_jobs import verify_multirun

        return verify_multirun(folder, location, again)
    store = ResultStore.open(location)
    store.refuse_gaps()
    complete, damaged = store.completed(), store.damaged()
    total = len(store.plan.shards)
    print(f"{len(complete):,} of {total:,} shards complete, {len(damaged):,} of them damaged")
    for index in damaged:
        start, stop = store.plan.shards[index]
        print(f"damaged: shard {index}, runs {start:,} to {stop - 1:,}")
    if damaged or len(complete) < total:
        recheck = [RECHECK] if damaged else []
        print(f"{resume_command(folder, [*recheck, *again])} does the rest")
        return 1
    return 0
