"""Clusters that a config may name, and the keyword arguments that it may give them.

Only listed keywords are allowed. Keywords that would run code (a prologue of a job script, another
Python, a module to preload) are not listed, because a config holds values only.
"""

from __future__ import annotations

import importlib
import os
import re
import warnings
from collections.abc import Mapping
from typing import Any

from cubie_flow.errors import FlowError, nearest

CUDA = "cuda"
#: Where clusters on this machine listen.
LOOPBACK = "127.0.0.1"
_CLASSES = {
    CUDA: ("dask_cuda", "LocalCUDACluster"),
    "slurm": ("dask_jobqueue", "SLURMCluster"),
    "pbs": ("dask_jobqueue", "PBSCluster"),
    "sge": ("dask_jobqueue", "SGECluster"),
    "lsf": ("dask_jobqueue", "LSFCluster"),
    "htcondor": ("dask_jobqueue", "HTCondorCluster"),
    "moab": ("dask_jobqueue", "MoabCluster"),
    "oar": ("dask_jobqueue", "OARCluster"),
}
CLUSTERS = tuple(_CLASSES)
_PACKAGES = {"dask_cuda": "dask-cuda", "dask_jobqueue": "dask-jobqueue"}
#: Keywords of every batch system, and additional ones of single systems.
_JOB = (
    "cores", "memory", "processes", "interface", "local_directory", "death_timeout",
    "log_directory", "shared_temp_directory", "job_name", "job_extra_directives", "walltime",
    "queue",
)  # fmt: skip
_MORE: Mapping[str, tuple[str, ...]] = {
    CUDA: (),
    "slurm": ("account", "job_cpu", "job_mem"),
    "pbs": ("account", "resource_spec"),
    "sge": ("project", "resource_spec"),
    "lsf": ("project", "ncpus", "mem", "use_stdin"),
    "htcondor": ("disk",),
    "moab": ("account", "resource_spec"),
    "oar": ("project", "resource_spec"),
}
_CUDA_OPTIONS = (
    "CUDA_VISIBLE_DEVICES", "memory_limit", "device_memory_limit", "local_directory", "interface",
    "protocol",
)  # fmt: skip
#: Texts of job scripts must not contain line breaks or special characters of the shell.
_PLAIN = re.compile(r"[\w@%+=:,./\- ]*")
#: Keywords whose items become comment lines of the script.
_LINES = ("job_extra_directives", "resource_spec")


def options_of(cluster: str) -> tuple[str, ...]:
    """Return the keywords that a config may give a cluster."""
    return _CUDA_OPTIONS if cluster == CUDA else (*_JOB, *_MORE[cluster])


def check_options(cluster: str | None, options: Mapping[str, Any], key: str) -> None:
    """Refuse keywords that a config may not give a cluster.

    Parameters
    ----------
    cluster : str, optional
        One of `CLUSTERS`.
    options : mapping
    key : str
        Config key of the options, for messages.

    Raises
    ------
    FlowError
        Naming the keyword and the nearest allowed one.
    """
    if cluster is None:
        if options:
            raise FlowError(
                f"{key} is given, but it belongs to engine.cluster, which is null; choose one of "
                f"{', '.join(CLUSTERS)}"
            )
        return
    allowed = options_of(cluster)
    for name, value in options.items():
        if name not in allowed:
            raise FlowError(
                f"{key}.{name} is not an option of engine.cluster={cluster} that a config may set "
                f"(allowed: {', '.join(allowed)}){nearest(name, allowed)}"
            )
        for item in value if isinstance(value, list) else [value]:
            _check_value(f"{key}.{name}", item, name in _LINES)


def _check_value(key: str, value: Any, line: bool) -> None:
    if value is None or isinstance(value, bool | int | float):
        return
    if not isinstance(value, str):
        raise FlowError(f"{key} holds {value!r}; it must be a number, a text or a list of them")
    if not (value.isprintable() if line else _PLAIN.fullmatch(value)):
        raise FlowError(
            f"{key} is {value!r}; it goes into a job script, so it may have letters, digits and "
            "@%+=:,./- only"
        )


def temporary_security() -> Any:
    """Return certificates of this command alone, by which its workers and it know each other.

    Returns
    -------
    distributed.security.Security or None
        None without the package that makes them.
    """
    from distributed.security import Security

    try:
        return Security.temporary()
    except ImportError:
        return None


def _security_of_jobs(name: str, options: Mapping[str, Any]) -> Any:
    """Return the certificates of a batch system's workers, which read them from a shared folder.

    Raises
    ------
    FlowError
        If they cannot be made, or the name of the folder cannot be in a job script.
    """
    folder = os.getcwd()
    if not (options.get("shared_temp_directory") or re.fullmatch(r"[\w@%+=:,./\-]*", folder)):
        raise FlowError(
            f"engine.cluster={name} keeps certificates in the current folder, whose name "
            f"{folder!r} cannot be in a job script; give engine.options.shared_temp_directory"
        )
    security = temporary_security()
    if security is None:
        raise FlowError(
            f"engine.cluster={name} needs certificates for its connections: "
            "pip install cryptography makes them"
        )
    return security


def make_cluster(name: str, options: Mapping[str, Any], workers: int | None) -> Any:
    """Start a Dask cluster.

    Parameters
    ----------
    name : str
        One of `CLUSTERS`.
    options : mapping
        Keyword arguments, checked by `check_options`.
    workers : int, optional
        Jobs to submit, or GPUs to use.

    Raises
    ------
    FlowError
        If its package is missing or it cannot start.
    """
    module, kind = _CLASSES[name]
    try:
        cluster_class = getattr(importlib.import_module(module), kind)
    except ImportError as error:
        raise FlowError(
            f"engine.cluster={name} needs a package: pip install {_PACKAGES[module]}"
        ) from error
    more: dict[str, Any] = {}
    if name == CUDA:
        # On this machine alone. Even without a dashboard it would take the dashboard's port.
        more = {
            "dashboard_address": None,
            "scheduler_kwargs": {"dashboard_address": f"{LOOPBACK}:0"},
        }
        if "interface" not in options:
            more["host"] = LOOPBACK
        if workers:
            more["n_workers"] = workers
    else:
        more = {"security": _security_of_jobs(name, options)}
    try:
        with warnings.catch_warnings():
            # That certificates are in the current folder, which the documentation says.
            warnings.filterwarnings("ignore", message="Using a temporary security object")
            cluster = cluster_class(**options, **more)
        if name != CUDA:
            cluster.scale(jobs=workers or 1)
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        raise FlowError(f"engine.cluster={name} cannot start: {words}") from error
    return cluster
