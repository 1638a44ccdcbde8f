"""The possible placements of buffers, and which of them are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, product
from math import prod
from typing import TYPE_CHECKING, Any

from cubie_flow.errors import FlowError, nearest
from cubie_flow.memory import LOCATIONS

if TYPE_CHECKING:
    from cubie_flow.kernels.kernel import BatchSolverKernel

Placement = dict[str, str]
Space = Mapping[str, tuple[str, ...]]
#: Number of buffers that are moved if none are named.
LARGEST = 3
HINT = 'pip install "cubie-flow[placement]"'


def label(placement: Mapping[str, str]) -> str:
    """Return a placement in words."""
    return " ".join(f"{name}={location}" for name, location in placement.items())


def largest_buffers(kernel: BatchSolverKernel, count: int = LARGEST) -> list[str]:
    """Return the names of the largest buffers, largest first."""
    entries = sorted(kernel.layout.entries, key=lambda entry: -entry.bytes)
    return list(dict.fromkeys(entry.name for entry in entries))[:count]


def search_space(kernel: BatchSolverKernel, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the locations that each buffer may have, its present one first.

    ``register`` is left out if the values of a buffer outlive a block.

    Raises
    ------
    FlowError
        For a name that no buffer has.
    """
    present = {entry.name: entry.location for entry in kernel.layout.entries}
    space = {}
    for name in names:
        if name not in present:
            raise FlowError(
                f"buffers.sweep names '{name}', which is not a buffer of this kernel (it has "
                f"{', '.join(present)}){nearest(name, present)}"
            )
        others = [one for one in LOCATIONS if one != present[name]]
        allowed = [present[name], *(one for one in others if _allows(kernel, name, one))]
        kernel.update(**{f"{name}_location": present[name]})
        space[name] = tuple(allowed)
    return space


def _allows(kernel: BatchSolverKernel, name: str, location: str) -> bool:
    """Return whether a buffer may be in a location; the kernel is changed."""
    kernel.update(**{f"{name}_location": location})
    try:
        kernel.check_locations()
    except FlowError:
        return False
    return True


def combinations(space: Space) -> Iterator[Placement]:
    """Yield every placement, the present one first."""
    for locations in product(*space.values()):
        yield dict(zip(space, locations, strict=True))


def one_at_a_time(space: Space) -> Iterator[Placement]:
    """Yield the present placement, then those that move one buffer."""
    present = {name: locations[0] for name, locations in space.items()}
    yield present
    for name, locations in space.items():
        for location in locations[1:]:
            yield {**present, name: location}


def candidates(space: Space, search: str, limit: int) -> list[Placement] | None:
    """Return the placements to compare, the present one first; None requests a Pareto search.

    Parameters
    ----------
    space : mapping
        Locations by buffer.
    search : {"all", "one_at_a_time", "pareto"}
    limit : int
        Largest number of placements.

    Raises
    ------
    FlowError
        If there are more than `limit` and Optuna, which would choose among them, is not installed.
    """
    size = prod(len(locations) for locations in space.values())
    if search == "one_at_a_time":
        return list(islice(one_at_a_time(space), limit))
    if search == "all" and size <= limit:
        return list(combinations(space))
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        asked = "buffers.search=pareto" if search == "pareto" else f"more than {limit} placements"
        raise FlowError(
            f"there are {size} placements and buffers.limit is {limit}; {asked} needs Optuna, so "
            f"{HINT}, or use buffers.search=one_at_a_time, or raise buffers.limit"
        ) from error
    return None


def pareto(
    space: Space,
    limit: int,
    at_once: int,
    measure: Callable[[list[Placement]], Sequence[tuple[float, ...]]],
    objectives: int,
) -> None:
    """Let Optuna propose placements until `limit` were measured.

    Multi-objective TPE (S. Watanabe, arXiv 2304.11127); the seed is fixed, so that the same
    space gives the same proposals.

    Parameters
    ----------
    space : mapping
    limit : int
    at_once : int
        Placements measured together.
    measure : callable
        Returns the values to minimise for placements that were not measured before.
    objectives : int
        Number of these values.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=0, constant_liar=True)
    study = optuna.create_study(directions=["minimize"] * objectives, sampler=sampler)
    study.enqueue_trial({name: locations[0] for name, locations in space.items()})
    known: dict[str, tuple[float, ...]] = {}
    limit = min(limit, prod(len(locations) for locations in space.values()))
    for _ in range(10 * limit):
        if len(known) >= limit:
            break
        wanted = min(at_once, limit - len(known))
        trials: list[tuple[Any, Placement]] = []
        for _ in range(wanted):
            trial = study.ask()
            trials.append(
                (trial, {n: trial.suggest_categorical(n, list(p)) for n, p in space.items()})
            )
        fresh = {label(p): p for _, p in trials if label(p) not in known}
        if fresh:
            known.update(zip(fresh, measure(list(fresh.values())), strict=True))
        for trial, placement in trials:
            study.tell(trial, list(known[label(placement)]))
