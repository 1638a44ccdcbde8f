"""The keys of the config with default, allowed values and description, for the documentation.

Defaults and descriptions are those of ``conf/``: a comment after a key describes it, else the
comment lines above it. Allowed values are those of the schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from attrs import frozen

from cubie_flow.config.schema import LOCATION, SCHEMA, BuffersChoice, Schema, checks, shipped
from cubie_flow.study.checks import Check

MAIN = "config"
#: The locations of buffers: their names are those of a kernel.
ANY_BUFFER = "buffers.NAME"
#: Keys that name the option of a group.
NAMING = ("kind", "name")
_KEY = re.compile(r"(?:  - )?(\w+):.*?(?:\s#\s(.*))?$")


@frozen
class KeyReference:
    """One key of the config.

    Attributes
    ----------
    key : str
        Full name, such as ``controller.rtol``.
    default : object
        Its value without overrides, as YAML reads it.
    allowed : str
        What it may hold, in words.
    words : dict
        The allowed values where they are a list, each with its description if ``conf/`` has one.
    description : str
        From the comments in ``conf/``.
    """

    key: str
    default: Any
    allowed: str
    words: dict[str, str]
    description: str


def reference() -> list[KeyReference]:
    """Return every key of the config in the order of the schema.

    Returns
    -------
    list of KeyReference
        The group ``system`` is one key, because a model gives the names in it.
    """
    main, about = _read(MAIN)
    values, options = dict(main), {}
    for choice in main["defaults"]:
        group, option = next(iter(choice.items())) if isinstance(choice, dict) else (choice, "")
        if group == "system":
            values[group] = option
        elif group in SCHEMA:
            values[group], comments = _read(f"{group}/{option}")
            name = next(iter(values[group]))
            if name in NAMING:
                # The comment describes one option; that of the group is in the main file.
                comments[name] = about[group]
                options[f"{group}.{name}"] = group
            about |= {f"{group}.{name}": text for name, text in comments.items()}
    entries = []
    for key, check in _leaves(SCHEMA):
        text = about.get(key) or about.get(key.rpartition(".")[0], "")
        words = {word: _option(options.get(key), word) for word in check.words}
        entries.append(KeyReference(key, _value(values, key), check.allowed, words, text))
    return entries


def _option(group: str | None, option: str) -> str:
    """Return the description of a file of a group; empty if there is none."""
    if group is None or not (shipped("conf") / group / f"{option}.yaml").is_file():
        return ""
    comments = _read(f"{group}/{option}")[1]
    return next((comments[name] for name in NAMING if name in comments), "")


def _leaves(schema: Schema, path: str = "") -> Iterator[tuple[str, Check]]:
    """Yield the keys of a schema with their checks."""
    for name, entry in schema.items():
        key = f"{path}{name}"
        if isinstance(entry, Mapping):
            yield from _leaves(entry, f"{key}.")
        elif key == "buffers":
            yield from ((f"{key}.{part}", one) for part, one in checks(BuffersChoice).items())
            yield ANY_BUFFER, LOCATION
        else:
            yield key, entry


def _value(defaults: Any, key: str) -> Any:
    for part in key.split("."):
        defaults = defaults.get(part) if isinstance(defaults, Mapping) else None
    return defaults


def _read(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values of a file of ``conf/`` and the comments on its keys."""
    text = (shipped("conf") / f"{name}.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    comments: dict[str, str] = {}
    for inherited in values.get("defaults", []) if name != MAIN else []:
        more, comments = _read(f"{name.rpartition('/')[0]}/{inherited}")
        values = {**more, **values}
    above: list[str] = []
    for line in text.splitlines():
        if line.startswith("#"):
            above.append(line.lstrip("# "))
            continue
        if match := _KEY.match(line):
            comments[match[1]] = match[2] or " ".join(above) or comments.get(match[1], "")
            if name == "buffers/default":
                # The comment at the top of this file is about the location of any buffer.
                comments.setdefault("NAME", " ".join(above))
        above = []
    return values, comments
