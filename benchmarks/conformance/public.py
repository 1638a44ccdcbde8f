"""Public models against independent simulators: libroadrunner, and libcellml's Python with SciPy.

    python -m benchmarks conformance --public ../shared

The folder holds ``cellml-models`` (cardiac cells and others), ``antimony-models``,
``petab-problems`` and ``sbml-cases``; what is absent is left out. Every model is integrated at the
default settings of `solve` with ``algorithm=auto`` and with four stiff methods.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from graphlib import TopologicalSorter
from multiprocessing import get_context
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from attrs import asdict, evolve, field, frozen

from benchmarks import record
from benchmarks.machine import machine
from cubie_flow import OdeSystem, solve
from cubie_flow.errors import FlowError
from cubie_flow.expressions.evaluate import evaluate
from cubie_flow.integrators.status import STATUS
from cubie_flow.study.options import ControllerChoice
from cubie_flow.study.tolerance_record import recorded_atol, recorded_faint

Array = Any
METHODS = ("auto", "rodas5p", "radau_iia_5", "bdf", "kvaerno5")
#: Mean difference over time, beside the peak of the quantity, below which results agree.
AGREES = 1e-3
#: Saved times, of a cell enough to meet every action potential, and its steps in the reference.
TIMES, CELL_TIMES, CELL_STEPS = 201, 2001, 4000
#: Looks at the comparisons in a step of the reference, and pieces between their changes.
LOOKS, PIECES = 4, 10_000
#: Models of one worker process, which keeps what it has compiled.
BATCH = 12
_COMPARE = ("eq_func", "neq_func", "lt_func", "leq_func", "gt_func", "geq_func")
#: Duration of a model that has none of its own: model units; of a cell: seconds.
DURATION, CELL_SECONDS = 10.0, 1.0
#: Factor of the tolerances that show whether a difference is one of tolerance, and the peak below
#: which a quantity is rounding.
FINER, NOTHING = 1e-3, 1e-24
#: Absolute tolerance of libroadrunner.
ATOL = 1e-24
#: Volts between the least and the largest voltage of an action potential.
PEAK = 0.05
_ASSIGNED = re.compile(r"    (\w+\[\d+\]) = ")
_READ = re.compile(r"(?:rates|algebraic_variables)\[\d+\]")
_NAMES = {code: name for name, code in STATUS.items()}


@frozen
class Right:
    """What a model does, by an independent simulator.

    Parameters
    ----------
    times : ndarray
    values : dict
        Over the times, by name.
    ours : callable
        From the result of cubie_flow to the same names.
    voltage : str
        Name of the membrane voltage, empty where there is none.
    peak : float
        Least height of an action potential, in the unit of the voltage.
    """

    times: Array
    values: dict[str, Array]
    ours: Callable[[Any], dict[str, Array]]
    system: OdeSystem
    voltage: str = ""
    peak: float = 0.0


@frozen
class Row:
    """What became of a model with a method."""

    model: str
    method: str
    status: str
    error: float = np.nan
    worst: str = ""
    peaked: bool | None = None
    right_peaked: bool | None = None
    seconds: float = 0.0
    notes: str = field(default="")
    finer: float = np.nan
    warned: bool = False

    @property
    def agrees(self) -> bool:
        """Whether nothing is wrong with it at the default tolerances."""
        return (
            self.status == "success" and self.error <= AGREES and self.peaked == self.right_peaked
        )

    @property
    def verdict(self) -> str:
        """What it comes to: ``agrees``, ``tolerance``, ``refused``, ``no reference``, ``differs``.

        ``tolerance``: a tighter one agrees, or the error falls with it.
        """
        if self.agrees:
            return "agrees"
        if self.status in ("refused", "no reference"):
            return self.status
        converges = self.finer <= max(AGREES, self.error / 10)
        return "tolerance" if converges and self.peaked == self.right_peaked else "differs"

    def __str__(self) -> str:
        peak = {None: "-", True: "yes", False: "no"}
        return (
            f"{self.model:<52.52} {self.method:<12} {self.status:<15} {self.error:>9.1e} "
            f"{peak[self.peaked]:>4} {peak[self.right_peaked]:>4} {self.seconds:>6.1f} "
            f"{'' if self.agrees else self._why}"
        )

    @property
    def _why(self) -> str:
        if self.verdict in ("refused", "no reference"):
            return self.notes
        said = ", said" if self.warned else ""
        return f"{self.verdict} (finer: {self.finer:.1e}{said}): {self.worst}"


HEAD = f"{'model':<52} {'method':<12} {'status':<15} {'error':>9} {'AP':>4} {'ref':>4} {'s':>6}"


# SBML ------------------------------------------------------------------------------------------


def sbml_right(path: Path, text: str, duration: float) -> Right:
    """Return what libroadrunner gives for a model of SBML."""
    import roadrunner

    from cubie_flow.systems.importers.markup import Markup
    from cubie_flow.systems.importers.sbml import read_sbml

    model = read_sbml(path.stem, Markup.check(text.encode(), path.name), path.name)
    roadrunner.Logger.setLevel(roadrunner.Logger.LOG_ERROR)
    about = roadrunner.RoadRunner(text)
    integrator = about.getIntegrator()
    integrator.setValue("relative_tolerance", 1e-10)
    integrator.setValue("absolute_tolerance", ATOL)
    integrator.setValue("maximum_num_steps", 1_000_000)
    species = [*about.model.getFloatingSpeciesIds(), *about.model.getBoundarySpeciesIds()]
    species = [name for name in species if name in model.amounts]
    selected = ["time", *species]
    times = np.linspace(0.0, duration, TIMES)
    found = np.asarray(about.simulate(0.0, duration, TIMES, selected))
    values = {name: found[:, i + 1] for i, name in enumerate(species)}

    def ours(data: Any) -> dict[str, Array]:
        known: dict[str, Any] = {item.name: item.value for item in model.system.parameters}
        known |= {state.name: data[state.name].values[0] for state in model.system.states}
        columns = evaluate([model.amounts[name] for name in species], {**known, "t": times})
        return {
            name: np.broadcast_to(column, times.shape)
            for name, column in zip(species, columns, strict=True)
        }

    return Right(times, values, ours, model.system)


def _antimony(path: Path) -> str:
    import antimony

    antimony.clearPreviousLoads()
    if antimony.loadAntimonyFile(str(path)) < 0:
        raise FlowError(antimony.getLastError())
    return str(antimony.getSBMLString(antimony.getMainModuleName()))


def _measured_until(folder: Path) -> float:
    """Return the last time of the measurements of a PEtab problem."""
    last = 0.0
    for path in folder.glob("measurement*.tsv"):
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        place = rows[0].index("time")
        known = [float(row[place]) for row in rows[1:] if len(row) > place]
        last = max([last, *(time for time in known if np.isfinite(time))])
    return last or DURATION


# CellML ----------------------------------------------------------------------------------------


def cellml_right(path: Path) -> Right:
    """Return what the equations that libcellml writes as Python give with SciPy."""
    system = OdeSystem.from_file(path)
    space, analysed = _exported(path)
    duration = CELL_SECONDS / (_in(analysed.voi().variable(), "second") or 1.0)
    times = np.linspace(0.0, duration, CELL_TIMES)
    values = _integrated(space, times, duration)
    names = [state.name for state in system.states]
    handles = [state.variable() for state in analysed.states()]
    written = [handle.name() for handle in handles]
    if len(names) != len(written) or any(
        not (a == b or a.endswith(f"_{b}") or a.startswith(b))
        for a, b in zip(names, written, strict=True)
    ):
        raise FlowError(f"the states of '{path}' are in another order than those of libcellml")
    volts = {name: _in(handle, "volt") for name, handle in zip(names, handles, strict=True)}
    voltage = next((name for name in names if volts[name] and re.match(r"(?i)v|e$", name)), "")

    def ours(data: Any) -> dict[str, Array]:
        return {name: data[name].values[0] for name in names}

    return Right(
        times, dict(zip(names, values.T, strict=True)), ours, system, voltage,
        PEAK / volts[voltage] if voltage else 0.0,
    )  # fmt: skip


def _in(variable: Any, unit: str) -> float:
    """Return how much of a unit one unit of a variable is; 0 if they do not compare."""
    import libcellml

    wanted = libcellml.Units(f"one_{unit}")
    wanted.addUnit(unit)
    return float(libcellml.Units.scalingFactor(wanted, variable.units()))


def _exported(path: Path) -> tuple[dict[str, Any], Any]:
    """Return the names of the module that libcellml writes for a model, and its analysed model."""
    import libcellml

    from cubie_flow.systems.importers.cellml_files import CellmlFile, whole_model
    from cubie_flow.systems.importers.markup import Markup

    analyser = libcellml.Analyser()
    analyser.analyseModel(whole_model(libcellml, CellmlFile(path, Markup.read(path))))
    profile = libcellml.GeneratorProfile(libcellml.GeneratorProfile.Profile.PYTHON)
    code = libcellml.Generator().implementationCode(analyser.analyserModel(), profile)
    space: dict[str, Any] = {}
    exec(compile(_in_order(code), str(path), "exec"), space)
    space.update({name: _unbounded(getattr(math, name)) for name in ("exp", "sinh", "cosh")})
    return space, analyser.analyserModel()


def _in_order(code: str) -> str:
    """Return the code of libcellml with every rate computed before it is read.

    libcellml 0.7.2 does not order the equations that read the rate of another state.
    """
    head, name, rest = code.partition("\ndef compute_rates")
    signature, _, body = rest.partition("\n")
    body, following, tail = body.partition("\n\n\n")
    lines = {found[1]: line for line in body.split("\n") if (found := _ASSIGNED.match(line))}
    uses = {
        target: [key for key in _READ.findall(line.partition(" = ")[2]) if key in lines]
        for target, line in lines.items()
    }
    body = "\n".join(lines[key] for key in TopologicalSorter(uses).static_order())
    return f"{head}{name}{signature}\n{body}{following}{tail}"


def _unbounded(function: Callable[[float], float]) -> Callable[[float], float]:
    """Return a function of Python that is infinite where its value is too large, as in C."""

    def value(x: float) -> float:
        try:
            return function(x)
        except OverflowError:
            return math.inf

    return value


class _Cell:
    """The equations that libcellml writes, with the comparisons in them held where that is wanted.

    Parameters
    ----------
    space : dict
        See `_exported`.
    """

    def __init__(self, space: dict[str, Any]) -> None:
        self.compute = space["compute_rates"]
        self.start, self.rates = space["create_states_array"](), space["create_states_array"]()
        self.rest = [
            space[f"create_{name}_array"]()
            for name in ("constants", "computed_constants", "algebraic_variables")
        ]
        space["initialise_arrays"](self.start, self.rates, *self.rest)
        space["compute_computed_constants"](0.0, self.start, self.rates, *self.rest)
        #: What the comparisons of one evaluation gave, in the order of their calls.
        self.truths: list[float] = []
        #: What they are made to give.
        self.held: list[float] | None = None
        for name in _COMPARE:
            if name in space:
                space[name] = self._kept(space[name])

    def _kept(self, compare: Callable[[float, float], float]) -> Callable[[float, float], float]:
        def value(x: float, y: float) -> float:
            self.truths.append(compare(x, y))
            return self.truths[-1] if self.held is None else self.held[len(self.truths) - 1]

        return value

    def rhs(self, t: float, y: Array) -> list[float]:
        """Return the rates."""
        self.truths = []
        self.compute(t, y.tolist(), self.rates, *self.rest)
        return [float(rate) for rate in self.rates]

    def hold(self, t: float, y: Array) -> None:
        """Hold every comparison as it is now."""
        self.held = None
        self.rhs(t, y)
        self.held = self.truths

    def changes(self, t: float, y: Array) -> bool:
        """Return whether a comparison is not what it is held at."""
        self.rhs(t, y)
        return self.truths != self.held


def _integrated(space: dict[str, Any], times: Array, duration: float) -> Array:
    """Return the states over the times, shape (times, states).

    Comparisons are held until one changes; there the integration begins anew.
    """
    from scipy.integrate import LSODA

    cell = _Cell(space)
    t, y, at = 0.0, np.array(cell.start, float), 0
    found = np.empty((len(times), len(y)))
    for _ in range(PIECES):
        cell.hold(t, y)
        solver = LSODA(
            cell.rhs, t, y, duration, rtol=1e-9, atol=1e-12, max_step=duration / CELL_STEPS
        )
        cut = False
        while solver.status == "running" and not cut:
            message = solver.step()
            if solver.status == "failed" or not np.isfinite(solver.y).all():
                raise RuntimeError(f"SciPy: {message}")
            dense, low = solver.dense_output(), solver.t_old
            t, y = solver.t, np.array(solver.y)
            for time in np.linspace(low, solver.t, LOOKS + 1)[1:]:
                if cell.changes(time, dense(time)):
                    t, cut = _change(cell, dense, low, time), True
                    y = dense(t)
                    break
                low = time
            reached = int(np.searchsorted(times, t, "right"))
            if reached > at:
                found[at:reached] = dense(times[at:reached]).T
                at = reached
        if not cut:
            return found
    raise RuntimeError("comparisons change without end")


def _change(cell: _Cell, dense: Callable[[float], Array], low: float, high: float) -> float:
    """Return the first time after which a comparison is another than before."""
    while low < (middle := 0.5 * (low + high)) < high:
        if cell.changes(middle, dense(middle)):
            high = middle
        else:
            low = middle
    return high


# every model --------------------------------------------------------------------------------


def files(folder: Path) -> Iterator[Path]:
    """Yield the models of a folder of shared files."""
    yield from sorted((folder / "cellml-models").glob("*.cellml"))
    yield from sorted((folder / "antimony-models").glob("*.ant"))
    for problem in sorted((folder / "petab-problems").glob("*")):
        yield from sorted(problem.glob("*model*.xml"))[:1]
    for case in sorted((folder / "sbml-cases").glob("*")):
        yield from sorted(case.glob("*-sbml-l3v?.xml"))[-1:]


def right(path: Path) -> Right:
    """Return what a model does, by an independent simulator.

    Raises
    ------
    FlowError
        If cubie_flow refuses the model.
    """
    if path.suffix == ".cellml":
        return cellml_right(path)
    if path.suffix == ".ant":
        return sbml_right(path, _antimony(path), DURATION)
    text = path.read_text(encoding="utf-8")
    settings = path.parent / f"{path.parent.name}-settings.txt"
    if settings.exists():
        from benchmarks.sbml import Settings

        return sbml_right(path, text, max(float(Settings.read(settings).times[-1]), 1e-3))
    return sbml_right(path, text, _measured_until(path.parent))


def rows(path: Path, methods: Sequence[str] = METHODS) -> list[Row]:
    """Return what becomes of a model with every method."""
    name = f"{path.parent.name}/{path.name}" if path.suffix == ".xml" else path.name
    try:
        about = right(path)
    except FlowError as error:
        return [Row(name, "-", "refused", notes=str(error)[:160])]
    except Exception as error:
        return [Row(name, "-", "no reference", notes=f"{type(error).__name__}: {error}"[:160])]
    return [_row(name, about, method) for method in methods]


def _row(name: str, about: Right, method: str) -> Row:
    began = monotonic()
    peaked = _peaks(about, about.values)
    try:
        data = _solved(about, method)
    except FlowError as refused:
        return Row(name, method, "refused", right_peaked=peaked, notes=str(refused)[:160])
    seconds = monotonic() - began
    found = about.ours(data)
    error, worst = _error(about.values, found)
    row = Row(
        name, method, _NAMES[int(data["status"][0])], error, worst, _peaks(about, found), peaked,
        seconds,
    )  # fmt: skip
    if row.agrees:
        return row
    atol = recorded_atol(data.attrs)
    less = {state: FINER * value for state, value in atol.items()}
    control = ControllerChoice(rtol=1e-6 * FINER, atol=less, max_steps=10_000_000)
    again = about.ours(_solved(about, method, controller=control))
    faint = worst.partition("[")[0] in recorded_faint(data.attrs)
    return evolve(row, finer=_error(about.values, again)[0], warned=faint)


def _solved(about: Right, method: str, **more: Any) -> Any:
    return solve(
        about.system, duration=float(about.times[-1]), times=about.times.tolist(),
        algorithm=method, target="cpu", **more,
    )  # fmt: skip


def _peaks(about: Right, values: dict[str, Array]) -> bool | None:
    if not about.voltage:
        return None
    voltage = values[about.voltage]
    return bool(np.isfinite(voltage).any() and np.nanmax(voltage) - np.nanmin(voltage) > about.peak)


def _error(wanted: dict[str, Array], found: dict[str, Array]) -> tuple[float, str]:
    """Return the largest mean difference beside the peak of a quantity, and where it is."""
    worst, said = 0.0, ""
    for name, values in wanted.items():
        peak = float(np.nanmax(np.abs(values), initial=0.0))
        apart = np.abs(np.asarray(found[name]) - values)
        error = float(np.mean(apart)) / max(peak, NOTHING)
        if not error <= worst:
            at = int(np.nanargmax(apart)) if np.isfinite(apart).any() else 0
            worst = error
            said = f"{name}[{at}] is {found[name][at]:.6g}, right is {values[at]:.6g}"
    return worst, said


def command(folder: Path, jobs: int, only: str = "", kept: Path | None = None) -> int:
    """Print the table of all public models; return 1 if one disagrees.

    Parameters
    ----------
    folder : Path
    jobs : int
        Worker processes.
    only : str
        Part of the path of the models that are compared; several are separated by commas.
    kept : Path, optional
        JSON file of the rows. Models that it has already are replaced, others stay.
    """
    parts = only.split(",")
    found = [path for path in files(folder) if any(part in str(path) for part in parts)]
    if not found:
        print(f"'{folder}' has no models")
        return 0
    print(HEAD)
    verdicts: Counter[str] = Counter()
    models: dict[str, list[dict[str, Any]]] = {}
    if kept is not None and kept.exists():
        models = record.read(kept)["models"]
    for path, several in _examined(found, max(1, jobs)):
        models[str(path.relative_to(folder))] = list(map(_kept, several))
        for row in several:
            print(row, flush=True)
            verdicts[row.verdict] += 1
        if kept is not None:
            record.write(_record(models), kept)
    told = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    print(f"{len(found)} models; rows: {told}")
    return int("differs" in verdicts)


def _examined(found: Sequence[Path], jobs: int) -> Iterator[tuple[Path, list[Row]]]:
    """Yield the rows of models, from worker processes that are replaced now and then."""
    # With max_tasks_per_child a pool of Python 3.11 may wait for ever (CPython issue 115634).
    for first in range(0, len(found), BATCH * jobs):
        some = found[first : first + BATCH * jobs]
        with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
            yield from zip(some, pool.map(rows, some), strict=True)


def _kept(row: Row) -> dict[str, Any]:
    """Return a row as a file has it: without what says nothing."""
    found = {key: value for key, value in asdict(row).items() if value not in ("", None)}
    for name in ("error", "seconds", "finer"):
        if np.isfinite(found[name]):
            found[name] = float(f"{found[name]:.2g}")
        else:
            del found[name]
    return {**found, "verdict": row.verdict}


def _record(models: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    every = [row for several in models.values() for row in several]
    return {
        "command": "python -m benchmarks conformance --public FOLDER --record FILE",
        "machine": machine(),
        "agrees": AGREES,
        "counts": {
            "models": len(models),
            "rows": len(every),
            **Counter(row["verdict"] for row in every),
        },
        "models": dict(sorted(models.items())),
    }
