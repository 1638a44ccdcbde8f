"""The distribution of a machine's GPUs and cores to workers."""

from __future__ import annotations

from collections.abc import Sequence

from cubie_flow.engines.base import WorkerResources
from cubie_flow.errors import FlowError


def pick_devices(wanted: int | Sequence[int] | None, present: int) -> tuple[int, ...]:
    """Return the numbers of the GPUs to use.

    Parameters
    ----------
    wanted
        ``target.device``: one number, several, or None for all.
    present
        Number of GPUs of the machine.

    Raises
    ------
    FlowError
        If a GPU does not exist or is named twice.
    """
    if wanted is None:
        return tuple(range(present))
    numbers = (wanted,) if isinstance(wanted, int) else tuple(wanted)
    for number in numbers:
        if number >= present:
            raise FlowError(
                f"target.device is {number}, but the driver offers {present} GPU(s); "
                "use target.kind=cpu, or task=doctor to see what is missing"
            )
    if len(set(numbers)) < len(numbers):
        raise FlowError(f"target.device is {list(numbers)}, which names a GPU twice")
    return numbers


def local_resources(devices: Sequence[int]) -> list[WorkerResources]:
    """Return the resources of this process: one entry per GPU, or one with all CPU threads."""
    return [WorkerResources(device=device) for device in devices] or [WorkerResources()]


def worker_resources(number: int, workers: int, devices: Sequence[int]) -> WorkerResources:
    """Return the resources of one of several workers on a machine.

    Worker 0 gets the first GPU, and so on; with more workers than GPUs some share one. CPU threads
    are divided.

    Parameters
    ----------
    number : int
        Number of the worker.
    workers : int
        Workers on the machine.
    devices : sequence of int
        Numbers of the GPUs.
    """
    device = devices[number % len(devices)] if devices else None
    return WorkerResources(share=workers, device=device)
