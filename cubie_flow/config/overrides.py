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
    """Check the options and expand short forms.

    ``system.file=model.yaml`` chooses that file instead of the system of the default experiment.
    ``batch.values={...}`` replaces all values of the experiment, to which Hydra would add, and
    ``batch.values.NAME=[...]`` those of one quantity. ``target.arch=sm_80,sm_90`` names several
    architectures unless it is swept. A table, saved times or an interval between them replace
    those of the default experiment.

    Raises
    ------
    FlowError
        For an option that Hydra does not have.
    """
    parsed = command_line_parser(_refuse).parse_intermixed_args(given)
    overrides = parsed.overrides
    # Hydra requires its options first.
    given = [word for word in given if word not in overrides]
    overrides = [_without_plus(override) for override in overrides]
    given += overrides
    chosen = [key_of(override) for override in overrides]
    _refuse_no_choices(overrides)
    expanded: list[str] = []
    for argument in given:
        if argument in overrides:
            if argument.startswith("system.file=") and "system" not in chosen:
                expanded.append("system=file")
            if argument.startswith("batch.values={"):
                # The size of the default experiment is replaced, one that is given is not.
                expanded += [] if "batch.size" in chosen else ["batch.size=null"]
                expanded += ["~batch.values"]
                argument = f"+{argument}"
            if re.fullmatch(r"\+{0,2}batch\.values\.\w+=(\[[^][]*\]|\{[^{}]*\})", argument):
                # Hydra would merge it with the value of the experiment, or fail to.
                expanded.append(f"{argument.partition('=')[0]}=null")
            if re.fullmatch(r"target\.arch=\w+(,\w+)+", argument) and not parsed.multirun:
                argument = argument.replace("=", "='") + "'"
        expanded.append(argument)
    # Values of the default experiment that exclude each other are replaced.
    if "batch=table" in overrides and not any(key.startswith("batch.values") for key in chosen):
        expanded += ["~batch.values", "+batch.values={}"]
    for one, other in (("times", "save_every"), ("save_every", "times")):
        if f"output.{one}" in chosen and f"output.{other}" not in chosen:
            expanded.append(f"output.{other}=null")
    return expanded


def _without_plus(override: str) -> str:
    """Return ``+GROUP=NAME`` without its sign: every group has a choice, which is replaced.

    ``experiment=null`` leaves it out, which Hydra writes as ``~experiment``.
    """
    key = key_of(override)
    if key == "experiment" and override.endswith("=null"):
        return "~experiment"
    is_group = key == "experiment" or (key.isidentifier() and (shipped("conf") / key).is_dir())
    return override.lstrip("+") if is_group else override


def _refuse_no_choices(overrides: Sequence[str]) -> None:
    """Refuse a list or a mapping for a group of ``conf/``: Hydra fails on it."""
    for override in overrides:
        key, _, value = override.partition("=")
        files = shipped("conf") / key.lstrip("+~")
        group = key.lstrip("+~").isidentifier() and files.is_dir()
        if key.lstrip("+~") == "experiment" and not _may_be_a_name(value):
            raise FlowError(f"{key} is {value}; it must be the name of an experiment")
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
    raise FlowError(f"the command line is wrong: {message}; --help lists the options")


def key_of(override: str) -> str:
    """Return the key of an override."""
    return override.split("=", 1)[0].lstrip("+~")


def sentence(error: Exception, given: Sequence[str]) -> str:
    """Return an error of Hydra as one sentence, with the nearest name if there is one.

    Parameters
    ----------
    error
        The error.
    given
        The command line that caused it.
    """
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
    """Return the message for a value that does not fit its key."""
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
    message = f"{group} is '{name}'; it must be one of {', '.join(options)}{nearest(name, options)}"
    if group == "hydra/launcher":
        message += '; others come with a package: pip install "cubie-flow[launchers]"'
    return message


def _unknown(key: str, given: Sequence[str]) -> str:
    """Return the message for a key that does not exist, with the keys of its group."""
    key = key.split("@")[0]
    node: Any = _composed(key, given)
    path = ""
    for part in key.split("."):
        keys: Iterable[str] = node.keys() if hasattr(node, "keys") else ()
        if part in keys:
            path = f"{path}.{part}" if path else part
            try:
                node = node[part]
            except OmegaConfBaseException:
                break  # it exists, without a value
            continue
        known = sorted(map(str, keys))
        if not known:
            return f"'{key}' is not a key of the config: {path} holds no keys"
        inside = f" in {path}" if path else ""
        hint = nearest(part, known)
        if not path and (key == part or part in ("parameters", "states")) and not hint:
            name = key.rpartition(".")[2]
            hint = (
                f"; a parameter of the model is system.parameters.{name}, an initial value "
                f"system.states.{name}"
            )
        return f"'{key}' is not a key of the config (allowed{inside}: {', '.join(known)}){hint}"
    return f"'{key}' cannot be changed this way"


def _composed(key: str, given: Sequence[str]) -> Any:
    """Return the config composed without the override that was refused."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    parsed = command_line_parser().parse_args(given)
    path = [f"file://{parsed.config_dir}"] if parsed.config_dir else []
    # Only choices of files matter here, and a sweep over them has no single result.
    others = [o for o in parsed.overrides if key_of(o) != key and "," not in o and "." not in o]
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        for overrides in (others, []):
            try:
                overrides = [*overrides, f"hydra.searchpath=[{','.join(path)}]"]
                return compose("config", overrides, return_hydra_config=True)
            except HydraException:
                continue
    return {}


def refuse_unknown_experiment(given: Sequence[str], options: Sequence[str]) -> None:
    """Refuse an ``experiment`` that does not exist.

    The default one belongs to the system and is optional, so Hydra ignores a wrong name.

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
