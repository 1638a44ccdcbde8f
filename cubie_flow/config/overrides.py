"""The command line before Hydra reads it, and Hydra's errors in one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from hydra.errors import (
    CompactHydraException,
    ConfigCompositionException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import OmegaConfBaseException

from cubie_flow.config.hydra_private import command_line_parser
from cubie_flow.config.schema import shipped
from cubie_flow.errors import FlowError, nearest

_RESOLVING = "FlowError raised while resolving interpolation: "


def arguments(given: Sequence[str]) -> list[str]:
    """Check the options and write out short forms.

    ``system.file=model.yaml`` chooses that file instead of the system of the default study,
    ``batch.values={...}`` replaces what the study varies, where Hydra would add to it, as
    ``batch.values.NAME=[...]`` replaces what it says of one quantity, and
    ``target.arch=sm_80,sm_90`` names several architectures where it is not swept. A table, saved
    times or an interval between them replace what the default study says of the same.

    Raises
    ------
    FlowError
        For an option that Hydra does not have.
    """
    parsed = command_line_parser(_refuse).parse_intermixed_args(given)
    overrides = parsed.overrides
    # Hydra wants its options first.
    given = [word for word in given if word not in overrides] + overrides
    chosen = [key_of(override) for override in overrides]
    _refuse_no_choices(overrides)
    found: list[str] = []
    for argument in given:
        if argument in overrides:
            if argument.startswith("system.file=") and "system" not in chosen:
                found.append("system=file")
            if argument.startswith("batch.values={"):
                # The size of the default study gives way, one that is given does not.
                found += [] if "batch.size" in chosen else ["batch.size=null"]
                found += ["~batch.values"]
                argument = f"+{argument}"
            if re.fullmatch(r"\+{0,2}batch\.values\.\w+=(\[[^][]*\]|\{[^{}]*\})", argument):
                # Hydra would add it to what the study says of the quantity, or stumble over that.
                found.append(f"{argument.partition('=')[0]}=null")
            if re.fullmatch(r"target\.arch=\w+(,\w+)+", argument) and not parsed.multirun:
                argument = argument.replace("=", "='") + "'"
        found.append(argument)
    # What the default study says gives way to what excludes it.
    if "batch=table" in overrides and not any(key.startswith("batch.values") for key in chosen):
        found += ["~batch.values", "+batch.values={}"]
    for one, other in (("times", "save_every"), ("save_every", "times")):
        if f"output.{one}" in chosen and f"output.{other}" not in chosen:
            found.append(f"output.{other}=null")
    return found


def _refuse_no_choices(overrides: Sequence[str]) -> None:
    """Refuse a list or a mapping where a file of ``conf/`` is chosen: Hydra stumbles over it."""
    for override in overrides:
        key, _, value = override.partition("=")
        files = shipped("conf") / key.lstrip("+~")
        group = key.lstrip("+~").isidentifier() and files.is_dir()
        if key.lstrip("+~") == "experiment" and not _may_be_a_name(value):
            raise FlowError(f"{key} is {value}; it must be the name of a study")
        if group and not _may_be_a_name(value):
            options = sorted(file.stem for file in files.glob("*.yaml"))
            raise FlowError(f"{key} is {value}; it must be one of {', '.join(options)}")


def _may_be_a_name(value: str) -> bool:
    if value.lstrip()[:1] in ("[", "{") or value.lower() in ("true", "false"):
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False


def _refuse(message: str) -> NoReturn:
    raise FlowError(f"the command line is wrong: {message}; --help lists what there is")


def key_of(override: str) -> str:
    """Return the key that an override speaks of."""
    return override.split("=", 1)[0].lstrip("+~")


def sentence(error: Exception, given: Sequence[str]) -> str:
    """Return what went wrong in one sentence, with the nearest name where there is one."""
    if isinstance(error, OverrideParseException):
        reason = _one_line(error.message.split("See https")[0])
        return (
            f"'{error.override}' cannot be read as key=value ({reason}); quote what holds spaces "
            "or brackets, such as 'output.times=[0, 1]', and text twice if it holds other signs, "
            "such as 'system.file=\"my model.yaml\"'"
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing(error)
    if isinstance(error, ConfigCompositionException):
        match = re.match(
            r"Could not (?:override|append to config|delete)[^']*'([^']+)'", str(error)
        )
        if match and not str(error).startswith("Could not append"):
            return _unknown(match[1], given)
    if str(error).startswith("Error merging override"):
        return _not_merged(str(error), str(error.__cause__ or error), given)
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        reason = str(error).splitlines()[0]
        return f"{error.full_key}: {reason.removeprefix(_RESOLVING)}"
    if isinstance(error, OSError) and error.strerror:
        return f"'{error.filename}': {error.strerror}" if error.filename else error.strerror
    cause = error.__cause__ if isinstance(error, CompactHydraException) else None
    return _one_line(f"{error}" if cause is None else f"{error}: {cause}")


def _not_merged(text: str, cause: str, given: Sequence[str]) -> str:
    """Say that a value does not fit the key that it is for."""
    word = next((word for word in given if word in text), text.removeprefix("Error merging "))
    reason = cause.splitlines()[0]
    if reason.startswith("Cannot merge"):
        reason = "one is a mapping and the other a list"
    return f"'{word}' does not fit what the key holds: {reason}"


def _one_line(text: str) -> str:
    return " ".join(re.sub(r"\s*\n\s*(full_key|object_type)", r"; \1", text).split())


def _missing(error: MissingConfigException) -> str:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    options = list(error.options or [])
    if not options:
        return f"there is no config named '{error.missing_cfg_file}'"
    told = f"{group} is '{name}'; it must be one of {', '.join(options)}{nearest(name, options)}"
    if group == "hydra/launcher":
        told += '; others come with a package: pip install "cubie-flow[launchers]"'
    return told


def _unknown(key: str, given: Sequence[str]) -> str:
    """Say that a key does not exist, and what exists beside it."""
    key = key.split("@")[0]
    place: Any = _composed(key, given)
    path = ""
    for part in key.split("."):
        keys: Iterable[str] = place.keys() if hasattr(place, "keys") else ()
        if part in keys:
            path = f"{path}.{part}" if path else part
            try:
                place = place[part]
            except OmegaConfBaseException:
                break  # it is there, without a value
            continue
        known = sorted(map(str, keys))
        if not known:
            return f"'{key}' is not a key of the config: {path} holds no keys"
        inside = f" in {path}" if path else ""
        hint = nearest(part, known)
        return f"'{key}' is not a key of the config (allowed{inside}: {', '.join(known)}){hint}"
    return f"'{key}' cannot be changed this way"


def _composed(key: str, given: Sequence[str]) -> Any:
    """Compose the config without the override that was refused."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    parsed = command_line_parser().parse_args(given)
    path = [f"file://{parsed.config_dir}"] if parsed.config_dir else []
    # Only choices of a file matter here, and a sweep over them has no single answer.
    kept = [o for o in parsed.overrides if key_of(o) != key and "," not in o and "." not in o]
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        for overrides in (kept, []):
            try:
                overrides = [*overrides, f"hydra.searchpath=[{','.join(path)}]"]
                return compose("config", overrides, return_hydra_config=True)
            except HydraException:
                continue
    return {}


def refuse_unknown_experiment(given: Sequence[str], options: Sequence[str]) -> None:
    """Refuse an ``experiment`` that does not exist.

    The default one belongs to the system and is optional, so Hydra passes over a wrong name.

    Raises
    ------
    FlowError
        With the nearest name.
    """
    for override in given:
        key, _, value = override.partition("=")
        if key.lstrip("+") == "experiment" and value not in (*options, "null"):
            raise FlowError(
                f"experiment is '{value}'; it must be one of {', '.join(options)}"
                f"{nearest(value, options)}"
            )
