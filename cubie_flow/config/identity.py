"""Which config keys are the science of a study, its kernel and its policy."""

from __future__ import annotations

from typing import Any

from cubie_flow.credentials import OPTIONS, URL

#: Keys that decide what is computed.
SCIENCE = (
    "system", "algorithm", "rescue", "duration", "t_start", "precision", "controller", "batch",
    "output",
)  # fmt: skip
#: Keys and attributes of a store that decide what is compiled.
KERNEL = ("target", "device", "cpu", "version_numba", "version_llvmlite", "version_numba_cuda")
#: Keys that a resume may change: they decide how fast a study is computed and what is done besides.
RESUMABLE = (
    "target.threads", "target.lanes", "target.block_size", "target.device", "buffers", "engine",
    "batch.order", "storage.picture", "storage.lease", "confirm", "dry_run", OPTIONS,
)  # fmt: skip
#: Keys that name machines, programs and addresses, with what their absence means. A resume takes
#: them from the command line alone: the folder may come from a stranger.
MACHINES: dict[str, Any] = {"engine.scheduler": None, "engine.cluster": None, "engine.options": {}}
#: Keys that a resume needs again.
GIVEN_AGAIN = ("engine", "engine.kind", *MACHINES, URL, OPTIONS)
#: Keys that never decide the numbers: those of a resume, and those that name the result.
POLICY = (*RESUMABLE, "storage", "study", "to", "task")
KINDS = {"science": SCIENCE, "kernel": KERNEL, "policy": POLICY}
#: Keys that folders of earlier versions lack, with what their absence means.
LATER: dict[str, Any] = {
    "storage.url": None, "storage.client": "fsspec", "storage.options": {},
    "storage.lease": 60.0, "storage.overwrite": False, "engine.confirm_runs": 100_000_000,
    "engine.confirm_bytes": 100_000_000_000, "engine.workers": None, "engine.scheduler": None,
    "engine.cluster": None, "engine.options": {}, "engine.retries": 3,
    "batch.sweep": [], "batch.order": "given", "output.sensitivities": None,
    "batch.observed": None, "batch.compartments": {}, "batch.covariates": "forward",
    "output.error": {}, "output.compare": None, "output.trajectories": {"where": None},
    "output.event_times": 0,
    "controller.pending_events": 16,
    "controller.history": 256,
    "confirm": False, "dry_run": False,
}  # fmt: skip


def kind_of(key: str) -> str:
    """Return the kind of a key, which is that of the longest entry that it is or belongs to.

    Parameters
    ----------
    key : str
        A config key or an attribute of a store, such as ``target.threads``.

    Returns
    -------
    {"science", "kernel", "policy"}
        ``science`` for an unknown key.
    """
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        for kind, keys in KINDS.items():
            if ".".join(parts[:end]) in keys:
                return kind
    return "science"


def may_change(key: str) -> bool:
    """Return whether a resume takes a new value of a key."""
    return any(key == one or key.startswith(f"{one}.") for one in RESUMABLE)
