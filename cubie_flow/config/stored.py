"""The study of a stored result, to finish it or to make it larger."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from cubie_flow.batches.described import own_size
from cubie_flow.config.identity import GIVEN_AGAIN, LATER, MACHINES, RESUMABLE, may_change
from cubie_flow.config.plain import names_outside, put, resolved, select
from cubie_flow.config.schema import Settings
from cubie_flow.credentials import HIDDEN, OPTIONS, URL, shown
from cubie_flow.documents import YAML_BYTES, parse_json, parse_yaml, read_text
from cubie_flow.errors import FlowError
from cubie_flow.process.safe_files import refuse_link
from cubie_flow.storage.folders import (
    CONFIG,
    RESULTS,
    VERSIONED,
    check_study_name,
    found_location,
    is_inside,
    noted_location,
)
from cubie_flow.storage.latest import named_run

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
    path = named_run(given)
    folder = path.parent if path.name in (RESULTS, VERSIONED) else path
    if noted_location(folder) is None:
        raise FlowError(f"{word}{given}: it has no {RESULTS}")
    refuse_link(folder / CONFIG)
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
        Command line: the only source of ``storage.options``, and of an address that is not inside
        of the folder (``storage.url``).

    Raises
    ------
    FlowError
        If there are none, or they are at an address that the command line does not name.
    """
    given = _given(overrides)
    options: dict[str, Any] = {}
    for key, value in given.items():
        if key.startswith(f"{OPTIONS}."):
            if value == HIDDEN:
                raise FlowError(f"{key} is {HIDDEN}, which stands for its value; give that")
            put(options, key.removeprefix(f"{OPTIONS}."), value)
    named = None if given.get(URL) is None else str(given[URL])
    location = found_location(folder, named, lambda address: f"{URL}={address}")
    if location is None:
        raise FlowError(f"'{folder}' holds no results")
    return evolve(location, options=options)


def stored_config(folder: Path) -> dict[str, Any]:
    """Return the config in the folder of a run as plain values, unresolved.

    Raises
    ------
    FlowError
        If it cannot be read.
    """
    path = folder / CONFIG
    try:
        return plain_config(read_text(path, YAML_BYTES), f"'{path}'")
    except FileNotFoundError:
        raise FlowError(f"'{path}' is missing") from None


def plain_config(text: str, source: str) -> dict[str, Any]:
    """Return a config from its YAML as plain values, unresolved.

    Parameters
    ----------
    text
        The YAML.
    source
        What holds it, for messages.

    Raises
    ------
    FlowError
        If it cannot be read.
    """
    parse_yaml(text, source.strip("'"))
    try:
        config = OmegaConf.to_container(OmegaConf.create(text))
    except (OmegaConfBaseException, YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FlowError(f"the configuration in {source} cannot be read: {reason}") from error
    if not isinstance(config, dict):
        raise FlowError(f"the configuration in {source} is damaged: it must be a mapping")
    return {str(key): value for key, value in config.items()}


def _given(overrides: Sequence[str]) -> dict[str, Any]:
    """Return what a command line gives each key."""
    return dict(_key_and_value(override) for override in overrides)


def _key_and_value(override: str) -> tuple[str, Any]:
    key, sign, text = override.partition("=")
    key = key.lstrip("+")
    if not sign or not key:
        raise FlowError(f"'{override}' is not of the form key=value, which resume= takes")
    try:
        value = OmegaConf.from_dotlist([f"value={text}"])["value"]
        return key, OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(
            value
        ) else value
    except Exception as error:
        raise FlowError(f"{key} is '{text}', which YAML cannot read") from error


def stored_settings(
    config: dict[str, Any], overrides: Sequence[str], attrs: Mapping[str, Any], source: str
) -> Settings:
    """Return the config of a run with the changes of the command line.

    Parameters
    ----------
    config
        The config of the run as plain values, unresolved; it is changed.
    overrides
        ``key=value`` of the command line.
    attrs
        Attributes of the store.
    source
        What holds the config, for messages.

    Raises
    ------
    FlowError
        If an override changes the science of the study, naming the key and both values; or if the
        config names machines or the environment, and the command line does not.
    """
    given = _given(overrides)
    for key, value in LATER.items():
        if select(config, key, LATER) is LATER:
            put(config, key, deepcopy(value))
    _forget_machines(config, given, source)
    if SIZE not in given and "design" in attrs and (size := select(config, SIZE)) is not None:
        # A study that has grown is as large as its store says.
        put(config, SIZE, own_size(_object(attrs, "design")) or size)
    for key, value in given.items():
        # These have opened the store, see `location_of`.
        if key in (URL, OPTIONS) or key.startswith(f"{OPTIONS}."):
            continue
        # No file of the group is read: its name is the kind.
        key = "engine.kind" if key == "engine" else key
        stored = select(config, key)
        changeable = key != "buffers" and (key == SIZE or may_change(key))
        if changeable or names_outside(stored):
            put(config, key, value)
        else:
            _refuse(key, value, stored, config, source)
    put(config, URL, None)
    put(config, OPTIONS, {})
    if "system" in attrs:
        config["system"] = {}  # the model is that of the store
    settings = Settings.from_container(resolved(config, source), list(attrs.get("overrides", [])))
    if settings.values["study"] is not None:
        check_study_name(settings.values["study"])
    return settings


def _forget_machines(config: dict[str, Any], given: Mapping[str, Any], source: str) -> None:
    """Remove machines, programs and addresses that a stored config names.

    Raises
    ------
    FlowError
        If it names one, and the command line does not say what is used instead.
    """
    engine_given = "engine" in given or "engine.kind" in given
    for key, nothing in MACHINES.items():
        stored = select(config, key)
        is_given = any(one == key or one.startswith(f"{key}.") for one in given)
        if stored not in (None, {}) and not (engine_given or is_given):
            raise FlowError(
                f"{key} is {str(stored)!r:.100} in {source}; a machine or program that only a "
                f"folder names is not used, so pass it again ({key}=...), or engine=local to "
                "solve on this machine"
            )
        put(config, key, deepcopy(nothing))
    if given.get("engine") == "local":
        put(config, "engine.workers", None)


def _refuse(key: str, value: Any, stored: Any, config: dict[str, Any], source: str) -> None:
    """Refuse an override unless the study has this value already."""
    if isinstance(stored, str) and "${" in stored:
        stored = select(resolved({**config, "asked": stored}, source), "asked")
    if isinstance(stored, Mapping) and "name" in stored and not isinstance(value, Mapping):
        stored = stored["name"]
    if stored != value:
        raise FlowError(
            f"{key}={value} differs from the study to resume, which has {key}={stored}; "
            f"resume takes new values of {', '.join(RESUMABLE)}, and a larger {SIZE} where the "
            "design can grow"
        )


def words_again(words: Sequence[str]) -> list[str]:
    """Return the words of a command line that a later resume needs again."""
    again = []
    for word in (word.lstrip("+") for word in words):
        key = word.partition("=")[0]
        if key in GIVEN_AGAIN or key.startswith(tuple(f"{one}." for one in GIVEN_AGAIN[2:])):
            again.append(shown(word))
    return again


def words_of_new(
    engine: Mapping[str, Any], options: Mapping[str, Any], location: Location, folder: Path
) -> list[str]:
    """Return the words that a resume of a new study needs: what its folder cannot name for it.

    Parameters
    ----------
    engine
        Group ``engine`` of its config.
    options
        ``storage.options``, unresolved.
    location
        Where its results are.
    folder
        The folder of the run.
    """
    words = []
    for key, nothing in MACHINES.items():
        if (value := engine[key.partition(".")[2]]) != nothing:
            words += _flat(key, value)
    if not is_inside(location, folder):
        words += [f"{URL}={location.address}", *_flat(OPTIONS, options)]
    return [shown(word) for word in words]


def _flat(key: str, value: Any) -> list[str]:
    """Return the words that set a key, one for each value of a mapping."""
    if isinstance(value, Mapping):
        return [word for name, item in value.items() for word in _flat(f"{key}.{name}", item)]
    text = json.dumps(value) if not isinstance(value, str) else value
    return [f"{key}={text}"]


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
