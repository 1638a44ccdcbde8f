"""``resume=FOLDER``: solve the runs that the study or multirun of a folder lacks."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from cubie_flow.errors import FlowError

if TYPE_CHECKING:
    from cubie_flow.storage import Location

RESUME, RECHECK = "resume=", "recheck=true"
MULTIRUN = ("-m", "--multirun")
LAUNCHER = ("hydra/launcher=", "hydra.launcher.")
log = logging.getLogger("cubie_flow")


def resume(words: list[str]) -> int:
    """Finish the study or multirun of a folder, with the config that the folder holds.

    Parameters
    ----------
    words
        Words of the command line: ``resume=FOLDER``, ``recheck=true``, a launcher of Hydra, and
        overrides of keys that do not change the study.

    Raises
    ------
    FlowError
        If the folder holds no result, or an override would change the study.
    """
    from cubie_flow.config import stored
    from cubie_flow.storage.index import is_multirun

    folder, others = split_words(words, RESUME)
    recheck = RECHECK in others
    # The folder itself says whether it holds a multirun, so -m is allowed and changes nothing.
    others = [word for word in others if word != RECHECK and word not in MULTIRUN]
    launcher = [word for word in others if word.startswith(LAUNCHER)]
    others = [word for word in others if word not in launcher]
    location = stored.location_of(folder, others)
    if is_multirun(location):
        from cubie_flow.multirun.resuming import resume_multirun

        resume_multirun(folder, location, others, recheck, launcher)
    elif launcher:
        raise FlowError(
            f"{launcher[0]} is for the jobs of a multirun, but '{folder}' holds one study; leave "
            "it out, or use engine=dask to spread its shards"
        )
    else:
        _resume_study(folder, location, others, recheck)
    return 0


def split_words(words: list[str], prefix: str) -> tuple[Path, list[str]]:
    """Return the folder that a word names, and the other words.

    Parameters
    ----------
    words
        Words of the command line.
    prefix
        ``resume=`` or ``verify=``.

    Raises
    ------
    FlowError
        If several words name a folder, or it holds no result.
    """
    from cubie_flow.config.stored import folder_of

    first, *more = [word for word in words if word.startswith(prefix)]
    if more:
        raise FlowError(f"{prefix} is given twice; give one folder")
    others = [word for word in words if not word.startswith(prefix)]
    return folder_of(first.removeprefix(prefix), prefix), others


def _resume_study(folder: Path, location: Location, overrides: list[str], recheck: bool) -> None:
    from cubie_flow.cli.study import confirm, solve
    from cubie_flow.config import stored
    from cubie_flow.console.session import open_session
    from cubie_flow.storage import ResultStore
    from cubie_flow.storage.folders import CONFIG

    with open_session(folder) as session:
        store = ResultStore.open(location)
        store.refuse_gaps()
        config, source = stored.stored_config(folder), f"'{folder / CONFIG}'"
        settings = stored.stored_settings(config, overrides, store.attrs, source)
        study = stored.stored_study(settings, store.attrs)
        confirm(settings, study)
        if settings.values["dry_run"]:
            print(stored.missing(store, study, recheck))
            return
        lease = settings.values["storage"]["lease"]
        session.begin_writing(location, lease, stored.words_again(overrides))
        log.info("%s resumed %s", study.name, " ".join(overrides))
        start = "recheck" if recheck else "resume"
        solve(session, settings, study, overrides=overrides, start=start)
