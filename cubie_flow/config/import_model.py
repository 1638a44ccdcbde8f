"""``task=import``: a model of any format becomes a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cubie_flow.config.schema import Settings


def import_model(settings: Settings) -> str:
    """Write the model of a config as YAML and return a description of it.

    Raises
    ------
    FlowError
        If the model cannot be read, or the file already exists or cannot be written.
    """
    system = settings.system()
    path = Path(settings.values["to"] or f"{system.name}.yaml").expanduser()
    system.to_file(path)
    counts = f"{len(system.states)} states, {len(system.parameters)} parameters"
    text = f"wrote {path}: {counts}; run it with system.file={path}"
    return f"{text}\n{system.description}" if system.description else text
