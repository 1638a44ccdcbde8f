"""Model files: YAML and the formats of other programs.

YAML is read strictly: plain values only, no key twice, and no aliases.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cubie_flow.errors import FlowError
from cubie_flow.systems.bounded_read import read_bytes
from cubie_flow.systems.quantities import shortened

#: Bytes of a model file.
MAX_BYTES = 2_000_000
SUFFIXES = (".yaml", ".yml")


def read_model_file(path: Path) -> dict[str, Any]:
    """Return the mapping of a model file, in YAML or in a format of another program.

    A model without a name gets the name of the file, with ``_`` for other characters.

    Raises
    ------
    FlowError
        If the file cannot be read, or has a feature that is not supported.
    """
    # Importers make systems, whose module reads files.
    from cubie_flow.systems.importers import FORMATS, import_model, imports
    from cubie_flow.systems.importers.names import system_name

    if imports(path):
        return import_model(path).to_mapping()
    if path.suffix.lower() not in SUFFIXES:
        if path.suffix == ".py":
            raise FlowError(
                f"model file '{path}' is a program and is not executed; write the model in Python: "
                "OdeSystem.from_function(...).to_file('model.yaml')"
            )
        _check_ending(path, (*SUFFIXES, *FORMATS))
    model = {"name": system_name(path.stem), **read_yaml(path)}
    drivers = model.get("drivers")
    if isinstance(drivers, dict):
        # The path of a data file is relative to the model file.
        for entry in drivers.values():
            if isinstance(entry, dict) and isinstance(entry.get("file"), str):
                entry["file"] = str(path.parent / Path(entry["file"]).expanduser())
    return model


def write_yaml(model: Mapping[str, Any], path: Path) -> None:
    """Write a mapping that `read_yaml` reads; an existing file is never replaced.

    Raises
    ------
    FlowError
        If the file exists, has another ending, cannot be written, or would be too large to be
        read.
    """
    _check_ending(path, SUFFIXES)
    text = yaml.dump(
        dict(model), Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, width=96
    )
    size = len(text.encode())
    if size > MAX_BYTES:
        raise FlowError(
            f"the model makes a file of {size} bytes, but a model file may have {MAX_BYTES}; "
            "use the original with system.file"
        )
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise FlowError(f"'{path}' exists and is not replaced; name another file") from None
    except OSError as error:
        raise FlowError(f"'{path}' cannot be written: {error.strerror or error}") from error


def _check_ending(path: Path, endings: Sequence[str]) -> None:
    if path.suffix.lower() not in endings:
        raise FlowError(f"model file '{path}' must end in one of {', '.join(endings)}")


class _PlainDumper(yaml.SafeDumper):
    """Writes every value in full: the reader allows no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Numbers follow YAML 1.2: ``1e-3`` is a number, and ``no`` and ``on`` are words.

    Raises
    ------
    FlowError
        If the file is missing, too large, not YAML, not a mapping, or has a key twice.
    """
    _check_ending(path, SUFFIXES)
    content = read_bytes(path, MAX_BYTES)
    try:
        model = yaml.load(content.decode("utf-8"), _StrictLoader)  # a SafeLoader, made stricter
    except UnicodeDecodeError:
        raise FlowError(f"model file '{path}' is not UTF-8 text") from None
    except RecursionError:
        raise FlowError(f"model file '{path}' is nested too deeply") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise FlowError(f"model file '{path}' is not YAML: {reason}") from None
    except FlowError as error:
        raise FlowError(f"model file '{path}', {error}") from None
    if not isinstance(model, dict):
        raise FlowError(f"model file '{path}' must hold a mapping with states and equations")
    return model


class _StrictLoader(yaml.SafeLoader):
    """Numbers, truths, text, lists and mappings; neither tags nor anchors."""

    def compose_node(self, parent: Any, index: int) -> Any:
        # An alias of an alias of an alias grows without bound ("billion laughs").
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if event.anchor is not None:
            raise FlowError(f"{_line(event)}: anchors and aliases are not allowed; write it out")
        if getattr(event, "tag", None) is not None:
            raise FlowError(f"{_line(event)}: the tag {shortened(event.tag)} is not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise FlowError(f"{_line(key)}: a key must be a name")
            if key.value in mapping:
                raise FlowError(f"{_line(key)}: the key {shortened(key.value)} is given twice")
            # Keys are names even where they look like something else, as `1` and `true` do.
            mapping[key.value] = self.construct_object(value, deep)
        return mapping

    def construct_yaml_int(self, node: Any) -> int:
        return int(node.value)  # decimal, where YAML 1.1 takes 010 for eight


def _line(item: Any) -> str:
    return f"line {item.start_mark.line + 1}"


_StrictLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", ["t", "f"]),
    ("int", r"[-+]?[0-9]{1,300}", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _name = f"tag:yaml.org,2002:{_tag}"
    _StrictLoader.add_implicit_resolver(_name, re.compile(rf"(?:{_pattern})\Z"), _first)
_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)
