"""torchdiffeq: all runs as one system with common steps."""

from __future__ import annotations

from typing import Any

from benchmarks.cases import Case, Entry
from benchmarks.fields import field
from benchmarks.peers import Prepared


def prepare(case: Case, entry: Entry) -> Prepared:
    import torch
    from torchdiffeq import odeint

    from cubie_flow.process.machine import usable_cores

    torch.set_num_threads(usable_cores())
    about = case.problem
    equations = field(about, _Functions(torch))
    kind = getattr(torch, entry.precision)
    values = torch.as_tensor(about.values(entry.runs)).to(kind)
    start = torch.as_tensor(about.start).to(kind)[:, None].repeat(1, entry.runs)
    # It also needs the starting time.
    times = torch.cat([torch.zeros(1, dtype=kind), torch.as_tensor(case.times()).to(kind)])
    options = {"step_size": entry.dt} if entry.dt else None

    def derivative(t: Any, u: Any) -> Any:
        du = equations(t, u, values)
        return torch.stack(torch.broadcast_tensors(*du)) if isinstance(du, list) else du

    def run() -> Any:
        with torch.no_grad():
            return odeint(
                derivative, start, times, rtol=entry.rtol, atol=entry.atol, method=entry.method,
                options=options,
            )  # fmt: skip

    def ends(answer: Any, probes: Any) -> Any:
        return answer[1:].numpy()[:, :, probes].transpose(2, 0, 1)

    return Prepared(run, ends)


class _Functions:
    """Functions of torch under the names of numpy."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)
