"""Finishing a study that was interrupted, or making it larger."""

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
        raise FlowError(f"{word}{given}: there is no {RESULTS} in it")
    if not (folder / CONFIG).is_file():
        raise FlowError(f"{word}{given}: its {CONFIG} is missing")
    return folder


def location_of(folder: Path, overrides: Sequence[str] = ()) -> Location:
    """Return where the results of a folder are, with the options that open them.

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
    found = found_location(folder, options)  # type: ignore[arg-type]
    if found is None:
        raise FlowError(f"'{folder}' holds no results")
    return found


def stored_config(folder: Path) -> Any:
    """Return the config that a run left in its folder, unresolved."""
    return OmegaConf.load(folder / CONFIG)


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
        raise FlowError(f"'{override}' is no key=value, which is what resume= takes beside it")
    try:
        return key, OmegaConf.from_dotlist([f"value={text}"])["value"]
    except Exception as error:
        raise FlowError(f"{key} is '{text}', which is no value that YAML knows") from error


def stored_settings(config: Any, overrides: Sequence[str], attrs: Mapping[str, Any]) -> Settings:
    """Return the config of a run with what the command line may change.

    Parameters
    ----------
    config
        Of the run, as OmegaConf has it; it is changed.
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
        # No file of the group is read, but its name says the kind.
        if (key, value) == ("engine", "local"):
            # Of workers, which this one has not.
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
    """Refuse an override unless it says what the study has anyway."""
    stored = OmegaConf.select(config, key)
    if isinstance(stored, Mapping) and "name" in stored and not isinstance(value, Mapping):
        stored = stored["name"]
    if stored != value:
        raise FlowError(
            f"{key}={value} is another study than the one to resume, which has {key}={stored}; "
            f"resume takes new values of {', '.join(RESUMABLE)}, and a larger {SIZE} where the "
            "design can grow"
        )


def missing_runs(store: ResultStore, study: Study, recheck: bool) -> tuple[int, int]:
    """Return how many runs, and in how many shards, a resume would solve; nothing is written."""
    complete = store.completed() - set(store.damaged() if recheck else ())
    runs, shard = study.design.size, store.plan.shard_runs
    if runs > store.plan.runs and store.plan.runs % shard:
        complete.discard(len(store.plan.shards) - 1)
    done = sum(stop - start for start, stop in (store.plan.shards[i] for i in complete))
    return runs - done, -(-runs // shard) - len(complete)


def missing(store: ResultStore, study: Study, recheck: bool) -> str:
    """Return in words what a resume would solve."""
    absent, shards = missing_runs(store, study, recheck)
    return (
        f"{'dry run':<8} {absent:,} of {study.design.size:,} runs of {study.name} are missing in "
        f"{store.location.name}, in {shards:,} shards; nothing was solved or written"
    )


def stored_study(settings: Settings, attrs: Mapping[str, Any]) -> Study:
    """Return the study of a store, its model as the store holds it.

    Raises
    ------
    FlowError
        If the batch is no longer what it was, or grows where it cannot.
    """
    from cubie_flow.study.accuracy import as_recorded
    from cubie_flow.systems import OdeSystem

    study = settings.study(OdeSystem.from_mapping(json.loads(_stated(attrs, "system"))))
    # A method that was chosen from a pilot is not chosen again.
    study = as_recorded(evolve(study, algorithm=_stated(attrs, "algorithm")), attrs)
    if "compare" in attrs:
        study = evolve(study, output=evolve(study.output, compare=json.loads(attrs["compare"])))
    stored, now = json.loads(_stated(attrs, "design")), study.design.describe()
    if stored != now and not study.design.extends(stored):
        raise FlowError(
            f"the batch is not what it was when the study began (then {json.dumps(stored)}, now "
            f"{json.dumps(now)}); only a design that can grow may be larger"
        )
    return study


def _stated(attrs: Mapping[str, Any], name: str) -> str:
    """Return a text that every store of a study has among its attributes."""
    if not isinstance(found := attrs.get(name), str):
        raise FlowError(
            f"the store has no attribute '{name}' to resume a study from; it was damaged, "
            "or is none of cubie_flow's"
        )
    return found
