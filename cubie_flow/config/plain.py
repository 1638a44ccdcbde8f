"""Configs that were read from a folder or a store, as plain values.

Such a config may come from a stranger. A reference to another of its keys, ``${duration}``, is
resolved. Anything else in ``${}`` would read the environment or run code and is refused.
"""

from __future__ import annotations

import re
from typing import Any

from cubie_flow.errors import FlowError

_REFERENCE = re.compile(r"\$\{\s*([\w-]+(?:\.[\w-]+)*)\s*\}")
#: References that one config may resolve, and characters of a text that it makes by them.
MOST_REFERENCES, LONGEST = 1000, 100_000
_ABSENT = object()


def select(config: Any, key: str, default: Any = None) -> Any:
    """Return the value of a dotted key, nothing resolved; `default` if there is none."""
    for part in key.split("."):
        if isinstance(config, list) and part.isdecimal() and int(part) < len(config):
            config = config[int(part)]
        elif isinstance(config, dict) and part in config:
            config = config[part]
        else:
            return default
    return config


def put(config: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key; anything but a mapping on the way to it is replaced by one."""
    *groups, last = key.split(".")
    for group in groups:
        if not isinstance(config.get(group), dict):
            config[group] = {}
        config = config[group]
    config[last] = value


def drop(config: dict[str, Any], key: str) -> None:
    """Remove a dotted key if it is there."""
    group, _, last = key.rpartition(".")
    section = select(config, group) if group else config
    if isinstance(section, dict):
        section.pop(last, None)


def names_outside(value: Any) -> bool:
    """Return whether a text holds more in ``${}`` than references to keys of the config."""
    return isinstance(value, str) and "${" in _REFERENCE.sub("", value)


def resolved(config: dict[str, Any], source: str) -> dict[str, Any]:
    """Return a config with references between its own keys resolved.

    Parameters
    ----------
    config
        Plain values with unresolved interpolations.
    source
        What holds the config, for messages.

    Raises
    ------
    FlowError
        Naming the source, the key and its text, if it holds something else in ``${}``.
    """
    return dict(_Resolver(config, source).value(config, "", ()))


class _Resolver:
    def __init__(self, config: dict[str, Any], source: str) -> None:
        self._config, self._source = config, source
        self._references = 0

    def value(self, value: Any, key: str, through: tuple[str, ...]) -> Any:
        """Return a value resolved; `through` are the references that led to it."""
        where = f"{key}." if key else ""
        if isinstance(value, dict):
            return {k: self.value(item, f"{where}{k}", through) for k, item in value.items()}
        if isinstance(value, list):
            return [self.value(item, f"{where}{i}", through) for i, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        if (whole := _REFERENCE.fullmatch(value)) is not None:
            return self._referenced(whole[1], key, value, through)
        text = _REFERENCE.sub(
            lambda found: str(self._referenced(found[1], key, value, through)), value
        )
        if "${" in text or len(text) > LONGEST:
            self._refuse(key, value)
        return text

    def _referenced(self, name: str, key: str, text: str, through: tuple[str, ...]) -> Any:
        self._references += 1
        found = select(self._config, name, _ABSENT)
        if found is _ABSENT or name in through or self._references > MOST_REFERENCES:
            self._refuse(key, text)
        return self.value(found, name, (*through, name))

    def _refuse(self, key: str, text: str) -> None:
        raise FlowError(
            f"{key} is {text!r:.80} in {self._source}, which may only refer to its own keys; a "
            f"stored configuration is never completed from the environment, so give {key}=VALUE"
        )
