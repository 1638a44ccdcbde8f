"""A study as a config, so that a dataset made in memory can also be run again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cubie_flow.study.study import Study


def to_config(study: Study) -> str:
    """Return as YAML how a study is integrated and saved.

    The model and the batch are not part of it: a dataset holds both itself.
    """
    import attrs
    import yaml

    output = attrs.asdict(study.output)
    output["trajectories"] = {"where": output.pop("where")}
    config = {
        "study": study.name,
        "duration": study.duration,
        "t_start": study.t_start,
        "precision": study.precision,
        "algorithm": {"name": study.algorithm, "linear_solver": study.linear_solver},
        "rescue": [attrs.asdict(attempt) for attempt in study.rescue] or "off",
        "controller": attrs.asdict(study.controller),
        "output": output,
        "target": attrs.asdict(study.target),
        "buffers": {f"{name}_location": location for name, location in study.locations.items()},
    }
    # The dumper in C, if PyYAML has it, takes a tenth of the time.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(_plain(config), Dumper=dumper, sort_keys=False))


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, PurePath):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
