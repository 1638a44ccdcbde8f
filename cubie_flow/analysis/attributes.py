"""The attributes of a result that hold text in JSON or YAML, read in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cubie_flow.documents import parse_json, parse_yaml
from cubie_flow.errors import FlowError

if TYPE_CHECKING:
    from xarray import Dataset


def design(data: Dataset) -> dict[str, Any]:
    """Return how the batch was made (``kind``, ``size``, ``values``, ``sweep``); empty if unknown.

    ``values`` maps the quantities that vary to their specifications.
    """
    return _json(data, "design")


def model(data: Dataset) -> dict[str, Any]:
    """Return the model as a mapping that `OdeSystem.from_mapping` reads; empty if unknown."""
    return _json(data, "system")


def config(data: Dataset) -> dict[str, Any]:
    """Return the composed configuration of a study, with interpolations unresolved.

    Raises
    ------
    FlowError
        If the dataset holds none.
    """
    text = data.attrs.get("config")
    if not text:
        raise FlowError("this dataset holds no configuration")
    return parse_yaml(text, "the configuration in this dataset")


def config_or_empty(data: Dataset) -> dict[str, Any]:
    """Return the composed configuration of a study; empty if the dataset holds none."""
    return config(data) if data.attrs.get("config") else {}


def seconds(data: Dataset) -> dict[str, float]:
    """Return the time that each phase of the study took, in seconds."""
    prefix = "seconds_"
    return {
        name.removeprefix(prefix): value
        for name, value in data.attrs.items()
        if name.startswith(prefix)
    }


def _json(data: Dataset, name: str) -> dict[str, Any]:
    return parse_json(data.attrs.get(name, "{}"), f"the attribute {name} of this dataset")


def with_flags(variable: Any) -> Any:
    """Return a variable whose ``flag_values`` have its own type, as CF demands.

    JSON, in which a store keeps them, has one type of number.
    """
    if "flag_values" in variable.attrs:
        values = np.atleast_1d(np.asarray(variable.attrs["flag_values"]))
        variable.attrs["flag_values"] = values.astype(variable.dtype)
    return variable
