"""Who gets what of a machine: GPUs to seats, seats to workers."""

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
        How many GPUs there are.

    Raises
    ------
    FlowError
        If a GPU is not there or is named twice.
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


def local_seats(devices: Sequence[int]) -> list[WorkerResources]:
    """Return a seat a GPU, or one for all CPU threads."""
    return [WorkerResources(device=device) for device in devices] or [WorkerResources()]


def worker_seat(number: int, workers: int, devices: Sequence[int]) -> WorkerResources:
    """Return the seat of one of several workers on a machine.

    GPUs go round: worker 0 has the first, and with more workers than GPUs some share one. CPU
    threads are divided.
    """
    device = devices[number % len(devices)] if devices else None
    return WorkerResources(share=workers, device=device)
