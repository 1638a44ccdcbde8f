"""``verify=FOLDER``: compare the shards of a result with their checksums."""

from __future__ import annotations

from cubie_flow.cli.resume import split_words
from cubie_flow.console.verification import Verification
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
    result = Verification.of(ResultStore.open(location))
    result.show(folder, again)
    return int(bool(result.damaged) or result.complete < result.shards)
