"""Hashes of settings that are equal in every process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import attrs
import numpy as np

from cubie_flow.errors import FlowError


def stable_hash(value: Any) -> str:
    """Return the SHA-256 (hex) of a value's content, equal in every process.

    Parameters
    ----------
    value : object
        Plain values, enums, paths, NumPy scalars, dtypes and arrays, classes, containers, attrs
        instances, and anything with a ``content_hash`` or ``config_hash``.

    Raises
    ------
    FlowError
        If a part has no content that is equal in another process, such as a function.
    """
    return hashlib.sha256(json.dumps(_stable(value)).encode()).hexdigest()


def _stable(value: Any) -> Any:
    """Return nested lists of strings, each tagged by type so that 1, 1.0, True and '1' differ."""
    match value:
        case type():
            return ["class", qualified_name(value)]
        case Enum():
            return ["enum", qualified_name(type(value)), value.name]
        case np.dtype():
            return ["dtype", value.descr if value.names else value.str]
        case np.ndarray() if not value.dtype.hasobject:
            digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
            return ["array", value.dtype.str, list(value.shape), digest]
        case np.generic():
            return ["scalar", value.dtype.str, value.tobytes().hex()]
        case None | bool() | int() | str():
            return [type(value).__name__, str(value)]
        case float():
            return ["float", value.hex()]
        case complex():
            return ["complex", value.real.hex(), value.imag.hex()]
        case bytes():
            return ["bytes", value.hex()]
        case PurePath():
            return ["path", value.as_posix()]
        case tuple() | list():
            return ["sequence", [_stable(item) for item in value]]
        case set() | frozenset():
            return ["set", sorted(json.dumps(_stable(item)) for item in value)]
        case Mapping():
            pairs = [[_stable(key), _stable(item)] for key, item in value.items()]
            return ["mapping", sorted(pairs, key=json.dumps)]
    for name in ("content_hash", "config_hash"):
        content = getattr(value, name, None)
        if content is not None:
            digest = content() if callable(content) else content
            return ["content", qualified_name(type(value)), digest]
    if attrs.has(type(value)):
        fields = [
            [one.name, _stable(getattr(value, one.name))]
            for one in attrs.fields(type(value))
            if one.metadata.get("hash", True) and not one.metadata.get("runtime", False)
        ]
        return ["attrs", qualified_name(type(value)), fields]
    raise FlowError(
        f"{value!r} has no stable content to hash; give it a content_hash or mark its field"
        ' with metadata={"hash": False}'
    )


def qualified_name(kind: type) -> str:
    """Return the module and name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"
