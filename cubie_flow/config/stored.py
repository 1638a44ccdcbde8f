"""The study of a stored result, to finish it or to make it larger."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve
from omegaconf import OmegaConf

from cubie_flow.config.identity import LATER, RESUMABLE, may_change
from cubie_flow.config.schema import Settings
from cubie_flow.credentials import OPTIONS
from cubie_flow.documents import parse_json, read_config
from cubie_flow.errors import FlowError
from cubie_flow.storage.folders import CONFIG, RESULTS, VERSIONED, found_location

if TYPE_CHECKING:
    from cubie_flow.storage import Location, ResultStore
    from cubie_flow.study.study import Study

SIZE = "batch.size"


def folder_of(given: str, word: str = "resume=") -> Path:
    """Return the folder of a run that holds a result.

    Raises
    ------
    FlowError
        If there is none.
    """
    path = Path(given)
    folder = path.parent if path.name in (RESULTS, VERSIONED) else path
    if found_location(folder) is None:
        raise FlowError(f"{word}{given}: it has no {RESULTS}")
    if not (folder / CONFIG).is_file():
        raise FlowError(f"{word}{given}: its {CONFIG} is missing")
    return folder


def location_of(folder: Path, overrides: Sequence[str] = ()) -> Location:
    """Return the location of a folder's results, with the options that open them.

    Parameters
    ----------
    folder
        The folder of a run.
    overrides
        Command line; its ``storage.options`` replace those of the folder's config.

    Raises
    ------
    FlowError
        If there are none.
    """
    config = stored_config(folder)
    _complete(config)
    for override in overrides:
        key, value = _key_and_value(override)
        if key.startswith(f"{OPTIONS}."):
            OmegaConf.update(config, key, value, force_add=True)
    options = OmegaConf.to_container(OmegaConf.select(config, OPTIONS), resolve=True)
    location = found_location(folder, options)  # type: ignore[arg-type]
    if location is None:
        raise FlowError(f"'{folder}' holds no results")
    return location


def stored_config(folder: Path) -> Any:
    """Return the config in the folder of a run, unresolved."""
    return read_config(folder / CONFIG)


def _complete(config: Any) -> None:
    """Add the keys that a config of an earlier version lacks."""
    OmegaConf.set_struct(config, False)
    for key, value in LATER.items():
        if OmegaConf.select(config, key, default=LATER) is LATER:
            OmegaConf.update(config, key, value, force_add=True)


def _key_and_value(override: str) -> tuple[str, Any]:
    key, sign, text = override.partition("=")
    key = key.lstrip("+")
    if not sign or not key:
        raise FlowError(f"'{override}' is not of the form key=value, which resume= takes")
    try:
        return key, OmegaConf.from_dotlist([f"value={text}"])["value"]
    except Exception as error:
        raise FlowError(f"{key} is '{text}', which YAML cannot read") from error


def stored_settings(config: Any, overrides: Sequence[str], attrs: Mapping[str, Any]) -> Settings:
    """Return the config of a run with the changes of the command line.

    Parameters
    ----------
    config
        The config of the run; it is changed.
    overrides
        ``key=value`` of the command line.
    attrs
        Attributes of the store.

    Raises
    ------
    FlowError
        If an override changes the science of the study, naming the key and both values.
    """
    _complete(config)
    for override in overrides:
        key, value = _key_and_value(override)
        # No file of the group is read: its name is the kind.
        if (key, value) == ("engine", "local"):
            # These are for workers, which engine=local does not have.
            OmegaConf.update(config, "engine.options", {}, merge=False)
            for name in ("workers", "scheduler", "cluster"):
                OmegaConf.update(config, f"engine.{name}", None)
        key = "engine.kind" if key == "engine" else key
        if key == "buffers" or not (key == SIZE or may_change(key)):
            _refuse(config, key, value)
            continue
        OmegaConf.update(config, key, value, force_add=True)
    return Settings.from_container(
        OmegaConf.to_container(config, resolve=True), list(attrs.get("overrides", []))
    )


def _refuse(config: Any, key: str, value: Any) -> None:
    """Refuse an override unless the study has this value already."""
    stored = OmegaConf.select(config, key)
    if isinstance(stored, Mapping) and "name" in stored and not isinstance(value, Mapping):
        stored = stored["name"]
    if stored != value:
        raise FlowError(
            f"{key}={value} differs from the study to resume, which has {key}={stored}; "
            f"resume takes new values of {', '.join(RESUMABLE)}, and a larger {SIZE} where the "
            "design can grow"
        )


def missing_runs(store: ResultStore, study: Study, recheck: bool) -> tuple[int, int]:
    """Return the numbers of runs and of shards that a resume would solve.

    Parameters
    ----------
    store
        The store of the study; nothing is written.
    study
        The study, which may have more runs than the store.
    recheck
        Whether damaged shards count as missing.
    """
    complete = store.completed() - set(store.damaged() if recheck else ())
    runs, shard = study.design.size, store.plan.shard_runs
    if runs > store.plan.runs and store.plan.runs % shard:
        complete.discard(len(store.plan.shards) - 1)
    done = sum(stop - start for start, stop in (store.plan.shards[i] for i in complete))
    return runs - done, -(-runs // shard) - len(complete)


def missing(store: ResultStore, study: Study, recheck: bool) -> str:
    """Return a sentence on what a resume would solve.

    Parameters
    ----------
    store, study, recheck
        See `missing_runs`.
    """
    absent, shards = missing_runs(store, study, recheck)
    return (
        f"{'dry run':<8} {absent:,} of {study.design.size:,} runs of {study.name} are missing in "
        f"{store.location.name}, in {shards:,} shards; nothing was solved or written"
    )


def stored_study(settings: Settings, attrs: Mapping[str, Any]) -> Study:
    """Return the study of a store, with the model that the store holds.

    Raises
    ------
    FlowError
        If the batch has changed, other than by growing if its design can.
    """
    from cubie_flow.study.accuracy import as_recorded
    from cubie_flow.systems import OdeSystem

    study = settings.study(OdeSystem.from_mapping(_object(attrs, "system")))
    # A method that was chosen from a pilot is not chosen again.
    study = as_recorded(evolve(study, algorithm=_stated(attrs, "algorithm")), attrs)
    if "compare" in attrs:
        study = evolve(study, output=evolve(study.output, compare=_object(attrs, "compare")))
    stored, now = _object(attrs, "design"), study.design.describe()
    if stored != now and not study.design.extends(stored):
        raise FlowError(
            f"the batch is not what it was when the study began (then {json.dumps(stored)}, now "
            f"{json.dumps(now)}); only a design that can grow may be larger"
        )
    return study


def _object(attrs: Mapping[str, Any], name: str) -> dict[str, Any]:
    return parse_json(_stated(attrs, name), f"the attribute {name} of the store")


def _stated(attrs: Mapping[str, Any], name: str) -> str:
    """Return a text attribute that every store of a study has."""
    if not isinstance(text := attrs.get(name), str):
        raise FlowError(
            f"the store has no attribute '{name}' to resume a study from; it was damaged, "
            "or is not a store of cubie_flow"
        )
    return text
