"""``resume=FOLDER``: solve the runs that the study or multirun of a folder lacks."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from cubie_flow.console.verification import RECHECK
from cubie_flow.errors import FlowError

if TYPE_CHECKING:
    from cubie_flow.storage import Location

RESUME = "resume="
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

    if (folder := _not_begun(words)) is not None:
        _begin(folder, [word for word in words if not word.startswith(RESUME)])
        return 0
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


def _not_begun(words: list[str]) -> Path | None:
    """Return the folder of a study that was stopped before its store was made; None for others."""
    from cubie_flow.storage.folders import CONFIG, ELSEWHERE, LOG, RESULTS, VERSIONED
    from cubie_flow.storage.latest import named_run
    from cubie_flow.storage.unfinished import is_unfinished

    given = named_run(next(w for w in words if w.startswith(RESUME)).removeprefix(RESUME))
    folder = given.parent if given.name == RESULTS else given
    known = all((folder / name).is_file() for name in (CONFIG, LOG))
    others = any((folder / name).exists() for name in (ELSEWHERE, VERSIONED))
    store = folder / RESULTS
    begun = (store.exists() or store.is_symlink()) and not is_unfinished(store)
    return folder if known and not others and not begun else None


def _begin(folder: Path, words: list[str]) -> None:
    """Begin a study from the start from its config: nothing of it was solved.

    Parameters
    ----------
    folder
        The folder of its run.
    words
        The other words of the command line.

    Raises
    ------
    FlowError
        If the config is that of a multirun, or names another place for the results.
    """
    from cubie_flow.cli.study import confirm, solve
    from cubie_flow.config import stored
    from cubie_flow.console.session import open_session
    from cubie_flow.documents import YAML_BYTES, read_text
    from cubie_flow.placement.resolve import resolve_placement
    from cubie_flow.storage import Location
    from cubie_flow.storage.folders import CONFIG, RESULTS
    from cubie_flow.storage.unfinished import delete_unfinished

    overrides = [word for word in words if word not in (RECHECK, *MULTIRUN)]
    with open_session(folder) as session:
        config = read_text(folder / CONFIG, YAML_BYTES)
        plain, source = stored.stored_config(folder), f"'{folder / CONFIG}'"
        settings = stored.stored_settings(plain, overrides, {}, source)
        storage = settings.values["storage"]
        if storage["url"] is not None or storage["client"] != "fsspec":
            raise FlowError(
                f"resume={folder}: it was stopped before its results were begun, and they are "
                "elsewhere; start the study again"
            )
        location = Location(folder / RESULTS)
        study = resolve_placement(settings)
        confirm(settings, study, location)
        if settings.values["dry_run"]:
            print(f"{'dry run':<8} all {study.design.size:,} runs of {study.name} are missing")
            return
        delete_unfinished(folder / RESULTS)
        session.begin_writing(location, storage["lease"])
        log.info("%s was stopped before it was begun; it begins now", study.name)
        settings.notes.append("nothing had been solved, so the study began from the start")
        solve(session, settings, study, overrides=overrides, config_yaml=config)


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
