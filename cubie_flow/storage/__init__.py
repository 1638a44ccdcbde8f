"""The Zarr store of a study: its location, layout, writer, lock and provenance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cubie_flow.storage.folders import (
    found_location,
    new_location,
    new_run_folder,
    note_location,
    noted_location,
)
from cubie_flow.storage.layout import ShardPlan, plan_shards
from cubie_flow.storage.lease import leased
from cubie_flow.storage.location import Location
from cubie_flow.storage.lock import locked
from cubie_flow.storage.provenance import SCHEMA_VERSION, provenance
from cubie_flow.storage.schema import StoreSchema, Variable

if TYPE_CHECKING:
    from cubie_flow.storage.store import ResultStore
    from cubie_flow.storage.writer import AsyncWriter

__all__ = [
    "SCHEMA_VERSION",
    "AsyncWriter",
    "Location",
    "ResultStore",
    "ShardPlan",
    "StoreSchema",
    "Variable",
    "found_location",
    "leased",
    "locked",
    "new_location",
    "new_run_folder",
    "note_location",
    "noted_location",
    "plan_shards",
    "provenance",
]


def __getattr__(name: str) -> Any:
    """Import the two names that need zarr on first use, so that planning does without it."""
    if name == "ResultStore":
        from cubie_flow.storage.store import ResultStore

        return ResultStore
    if name == "AsyncWriter":
        from cubie_flow.storage.writer import AsyncWriter

        return AsyncWriter
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
