"""The cases: an entry is one solver at one setting, a case a set of entries to compare."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import asdict, field, frozen

from benchmarks.problems import Problem, problem
from cubie_flow.errors import FlowError, nearest
from cubie_flow.integrators.tableaus import TAYLOR

Array = Any


@frozen
class Entry:
    """One solver at one setting.

    Parameters
    ----------
    peer : str
        Module in ``benchmarks.peers``, or a dotted name of one elsewhere.
    method : str
        Name of the method in the peer.
    rtol, atol : float
    dt : float, optional
        Fixed step.
    precision : str
    runs : int
        Number of runs of the case that it solves; slow peers solve fewer, and are compared by time
        per run.
    note : str
        A remark for readers, such as another precision.
    """

    peer: str
    method: str
    rtol: float
    atol: float
    dt: float | None
    precision: str
    runs: int
    note: str = ""

    @property
    def label(self) -> str:
        """Peer, method and setting, for tables."""
        setting = f"dt={self.dt:g}" if self.dt else f"{self.rtol:.0e}".replace("e-0", "e-")
        single = " f32" if self.precision == "float32" else ""
        return f"{self.peer} {self.method} {setting}{single}"


def _as_tuple(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(entries)


@frozen
class Case:
    """A problem, a number of runs, the saved times, and the entries.

    Parameters
    ----------
    name : str
    problem_name : str
    runs : int
    precision : str
        Nominal precision; entries may differ and note so.
    saves : int
        Number of evenly spread saved times, with the end and without the start; 0 saves only the
        final state.
    entries : tuple of Entry
        The first entry is ours at the nominal setting; its error is the one to reach.
    """

    name: str
    problem_name: str
    runs: int
    precision: str
    saves: int
    entries: tuple[Entry, ...] = field(converter=_as_tuple)

    @property
    def problem(self) -> Problem:
        """The problem that is integrated."""
        return problem(self.problem_name)

    def times(self) -> Array:
        """Return the saved times, or the final one; shape (times,)."""
        import numpy as np

        count = max(1, self.saves)
        return np.linspace(0.0, self.problem.duration, count + 1)[1:]

    def as_dict(self) -> dict[str, Any]:
        """Return the values that identify the case in a record."""
        kept = asdict(self)
        del kept["entries"]
        return kept


#: Most runs of peers that solve runs one after another: their time per run does not depend on it.
AT_MOST = {"scipy": 16, "casadi": 1000, "numbalsoda": 131_072, "numba_loop": 131_072}


def entry(
    about: Problem,
    runs: int,
    precision: str,
    peer: str,
    method: str,
    factor: float = 1.0,
    dt: float | None = None,
    note: str = "",
) -> Entry:
    """Return an entry at `factor` times the nominal tolerances."""
    limit = AT_MOST.get(peer, runs)
    if about.large and peer in AT_MOST:
        limit = max(4, limit // 64)
    return Entry(
        peer,
        method,
        about.rtol * factor,
        about.atol * factor,
        dt,
        precision,
        min(runs, limit),
        note,
    )


def fixed(
    runs: int,
    precision: str = "float64",
    dt: float = 1e-3,
    saves: int = 0,
    whole: bool = False,
    slow: bool = True,
) -> Case:
    """Return Lorenz with the classical Runge-Kutta method at a fixed step; see `adaptive`."""
    about = problem("lorenz")
    peers = ["kernel", "solve", "numba_loop", "jax_loop"]
    peers += ["command"] * whole + ["torchdiffeq"] * slow
    entries = [entry(about, runs, precision, peer, "rk4", dt=dt) for peer in peers]
    return Case(
        f"lorenz_rk4_{_tag(runs, precision, saves)}", "lorenz", runs, precision, saves, entries
    )


#: Our methods in addition to the nominal one, with factors of the tolerance, by stiffness.
_OURS = {
    False: [
        ("tsit5", 1e-1),
        ("vern7", 1e1),
        ("vern7", 1.0),
        ("vern7", 1e-2),
        ("dormand_prince_853", 1e-2),
        ("taylor_8", 1e2),
        ("taylor_8", 1.0),
        ("taylor_8", 4e-1),
        ("taylor_12", 1e1),
        ("taylor_12", 1.0),
        ("taylor_12", 1e-1),
        ("taylor_16", 8.0),
        ("taylor_16", 2.6),
        ("taylor_16", 1e-1),
    ],
    True: [("rodas5p", 1e-1), ("kvaerno5", 1.0), ("radau_iia_5", 1.0)],
}
#: Those methods that reached a goal first in some record; the others only complete the curves.
_FASTEST = {
    ("vern7", 1e1), ("vern7", 1.0), ("dormand_prince_853", 1e-2), ("taylor_8", 1e2),
    ("taylor_8", 4e-1), ("taylor_12", 1.0), ("taylor_16", 8.0), ("taylor_16", 2.6), *_OURS[True],
}  # fmt: skip
#: The same for peers.
_PEERS = {
    False: [
        ("heyoka", "taylor", 1.0), ("heyoka", "taylor", 1e2), ("numbalsoda", "dop853", 1.0),
        ("numbalsoda", "dop853", 1e-2), ("diffrax", "tsit5", 1.0), ("diffrax", "tsit5", 1e-1),
        ("torchdiffeq", "dopri5", 1.0), ("casadi", "cvodes", 1e-1), ("scipy", "DOP853", 1.0),
    ],
    True: [
        ("numbalsoda", "lsoda", 1.0), ("numbalsoda", "lsoda", 1e-1),
        ("numbalsoda", "lsoda", 1e-2), ("casadi", "cvodes", 1.0), ("casadi", "cvodes", 1e-1),
        ("diffrax", "kvaerno5", 1.0), ("scipy", "LSODA", 1.0), ("scipy", "Radau", 1.0),
    ],
}  # fmt: skip
#: Settings that only complete the curves: another setting of the same peer reaches the goals.
_CURVES = {
    ("numbalsoda", "lsoda", 1e-1), ("casadi", "cvodes", 1.0), ("scipy", "Radau", 1.0),
    ("diffrax", "tsit5", 1.0),
}  # fmt: skip
#: Peers that are measured in one case only among the problems that are not stiff.
SLOW = ("casadi", "scipy", "torchdiffeq")
#: Peers with float64 only, which also use it in float32 cases.
DOUBLE_ONLY = ("numbalsoda", "casadi", "scipy")


def adaptive(
    name: str,
    runs: int,
    precision: str = "float64",
    saves: int = 0,
    factor: float = 1.0,
    whole: bool = False,
    slow: bool = True,
    curves: bool = False,
) -> Case:
    """Return a problem with step control, at `factor` times its nominal tolerance.

    `whole` adds the whole command, which writes its store in a new process. Without `slow`, peers
    that are a hundred times slower than the others are left out. `curves` adds settings that are
    seldom the best, so that a picture shows time over error.
    """
    about = problem(name)
    entries = [entry(about, runs, precision, "kernel", about.algorithm, factor)]
    entries += [
        entry(about, runs, precision, "kernel", method, factor * by)
        for method, by in _OURS[about.stiff]
        if (curves or (method, by) in _FASTEST)
        and not (about.large and method in TAYLOR)  # too many operations to compile
        and (precision == "float64" or (method in TAYLOR and by >= 1.0))
        and (method, by) != (about.algorithm, 1.0)
    ]
    entries += [entry(about, runs, precision, "solve", about.algorithm, factor)]
    if whole:
        entries.append(entry(about, runs, precision, "command", about.algorithm, factor))
    for peer, method, by in _PEERS[about.stiff]:
        if peer in SLOW and not (slow or about.stiff):
            continue
        # float32 cannot hold the tighter tolerance of diffrax.
        if (peer, method, by) in _CURVES and not (curves or precision == "float32"):
            continue
        kind = "float64" if peer in DOUBLE_ONLY else precision
        note = "float64: it has no float32" if kind != precision else ""
        if precision == "float32" and by < 1.0 and kind == "float32":
            continue  # below what float32 can hold
        entries.append(entry(about, runs, kind, peer, method, factor * by, note=note))
    tag = "" if factor == 1.0 else f"_{about.rtol * factor:.0e}".replace("e-0", "e-")
    return Case(
        f"{name}{tag}_{_tag(runs, precision, saves)}", name, runs, precision, saves, entries
    )


def _tag(runs: int, precision: str, saves: int) -> str:
    short = "f32" if precision == "float32" else "f64"
    return f"{short}_{runs}" + (f"_{saves}saves" if saves else "")


def quick() -> list[Case]:
    """Return a few small cases that check the harness; their times mean nothing."""
    return [
        fixed(1024),
        adaptive("lorenz", 1024, whole=True),
        adaptive("lorenz", 1024, saves=100),
        adaptive("lorenz", 1024, "float32", factor=1e2),
        adaptive("hodgkin_huxley", 64),
        adaptive("hires", 64),
    ]


def bars() -> list[Case]:
    """Return the cases of the bars."""
    return [
        fixed(16_384),
        fixed(131_072),
        adaptive("lorenz", 16_384, whole=True),
        adaptive("lorenz", 131_072, slow=False),
        adaptive("lorenz", 16_384, "float32", factor=1e2, slow=False),
        adaptive("lorenz", 16_384, factor=1e-2, slow=False),
        adaptive("lorenz", 16_384, factor=1e-4, slow=False),
        adaptive("robertson", 1000),
        adaptive("hires", 1000),
        adaptive("beeler_reuter", 1000),
        adaptive("hodgkin_huxley", 1000, slow=False),
        adaptive("lorenz96_400", 256, slow=False),
        adaptive("brusselator_1d", 128),
    ]


#: Sizes of batches, from a few runs to a million.
SIZES = (64, 1024, 16_384, 131_072, 1_000_000)
#: Factor of the tolerance in float32.
_LOOSER = {"float64": 1.0, "float32": 1e2}


def sizes() -> list[Case]:
    """Return Lorenz in batches of all sizes, fixed and adaptive, in both precisions."""
    cases = []
    for precision, factor in _LOOSER.items():
        for runs in SIZES:
            whole = runs >= 16_384
            cases.append(fixed(runs, precision, whole=whole))
            cases.append(adaptive("lorenz", runs, precision, factor=factor, whole=whole))
    return cases


def saves() -> list[Case]:
    """Return Lorenz with 100 saved times, fixed and adaptive, in both precisions."""
    cases = []
    for precision, factor in _LOOSER.items():
        for runs in (16_384, 131_072):
            cases.append(fixed(runs, precision, saves=100, whole=True))
            cases.append(adaptive("lorenz", runs, precision, saves=100, factor=factor, whole=True))
    return cases


#: Problems for the comparison of our explicit methods, and these methods.
_SMOOTH = ("lorenz", "van_der_pol", "lotka_volterra", "arenstorf", "pleiades", "lorenz96_40")
_EXPLICIT = ("tsit5", "vern7", "dormand_prince_853", *TAYLOR)


def methods() -> list[Case]:
    """Return smooth problems with our explicit methods only, at tolerances of 1e-6 to 1e-12."""
    cases = []
    for name in _SMOOTH:
        about, runs = problem(name), 4096
        entries = [
            entry(about, runs, "float64", "kernel", method, factor)
            for method in _EXPLICIT
            for factor in (1e2, 1.0, 1e-2, 1e-4)
        ]
        cases.append(Case(f"methods_{name}_f64_{runs}", name, runs, "float64", 0, entries))
    return cases


def everything() -> list[Case]:
    """Return all cases: bars, sizes, saves, other problems, and curves of our methods."""
    others = [
        adaptive("lorenz96_40", 4096, curves=True),
        adaptive("lorenz96_40", 4096, saves=100),
        adaptive("pleiades", 4096, curves=True),
        adaptive("hodgkin_huxley", 16_384, curves=True),
        adaptive("hodgkin_huxley", 16_384, "float32"),
        adaptive("robertson", 16_384, curves=True),
        adaptive("hires", 16_384, curves=True),
        adaptive("hires", 1000, saves=100),
    ]
    known = {case.name: case for case in (*bars(), *sizes(), *saves(), *methods(), *others)}
    return list(known.values())


SETS = {
    "quick": quick, "bars": bars, "sizes": sizes, "saves": saves, "methods": methods,
    "all": everything,
}  # fmt: skip


def chosen(names: Iterable[str], wanted: str) -> set[str]:
    """Return the names that a comma-separated list of names and parts of names selects.

    Raises
    ------
    FlowError
        If a part occurs in no name.
    """
    known, found = list(names), set[str]()
    for part in filter(None, (part.strip() for part in wanted.split(","))):
        # A whole name selects only itself: lorenz_f64_1024 and not lorenz_f64_1024_100saves.
        one = {part} if part in known else {name for name in known if part in name}
        if not one:
            raise FlowError(
                f"--only is '{part}', which no case has in its name{nearest(part, known)}"
            )
        found |= one
    return found if wanted.strip(" ,") else set(known)
