"""Comparison of public models with libroadrunner, and with code of libcellml integrated by SciPy.

    python -m benchmarks conformance --public ../shared

The folder holds ``cellml-models`` (cardiac cells and others), ``antimony-models``,
``petab-problems`` and ``sbml-cases``; each of them is optional. Every model is integrated at the
default settings of `solve`, with ``algorithm=auto`` and with four stiff methods.
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
#: Largest mean difference over time, divided by the peak of the quantity, of results that agree.
AGREES = 1e-3
#: Number of saved times; of a cell, whose action potentials they resolve; least number of steps of
#: the reference of a cell.
TIMES, CELL_TIMES, CELL_STEPS = 201, 2001, 4000
#: Evaluations of the comparisons per step of the reference, and most pieces between their changes.
LOOKS, PIECES = 4, 10_000
#: Models per worker process; a worker keeps its compiled kernels in memory.
BATCH = 12
_COMPARE = ("eq_func", "neq_func", "lt_func", "leq_func", "gt_func", "geq_func")
#: Duration of a model without its own, in its unit of time; of a cell, in seconds.
DURATION, CELL_SECONDS = 10.0, 1.0
#: Factor of the tolerances of the second integration, which shows whether the tolerance explains a
#: difference; and the peak below which a quantity consists of rounding.
FINER, NOTHING = 1e-3, 1e-24
#: Absolute tolerance of libroadrunner.
ATOL = 1e-24
#: Least height of an action potential, in volts.
PEAK = 0.05
_ASSIGNED = re.compile(r"    (\w+\[\d+\]) = ")
_READ = re.compile(r"(?:rates|algebraic_variables)\[\d+\]")
_NAMES = {code: name for name, code in STATUS.items()}


@frozen
class Simulation:
    """The solution of a model by an independent simulator.

    Parameters
    ----------
    times : ndarray, shape (times,)
    values : dict
        Values over time by name, each of shape (times,).
    ours : callable
        From the result of cubie_flow to its values of the same names.
    system : OdeSystem
    voltage : str
        Name of the membrane voltage, empty for a model without one.
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
    """The comparison of a model with one method."""

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
        """Whether the results agree at the default tolerances."""
        return (
            self.status == "success" and self.error <= AGREES and self.peaked == self.right_peaked
        )

    @property
    def verdict(self) -> str:
        """The result: ``agrees``, ``tolerance``, ``refused``, ``no reference`` or ``differs``.

        ``tolerance`` means that the results agree at tighter tolerances, or that the error falls
        with the tolerances.
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
        """The reason why the results do not agree."""
        if self.verdict in ("refused", "no reference"):
            return self.notes
        warned = ", warned" if self.warned else ""
        return f"{self.verdict} (finer: {self.finer:.1e}{warned}): {self.worst}"


HEAD = f"{'model':<52} {'method':<12} {'status':<15} {'error':>9} {'AP':>4} {'ref':>4} {'s':>6}"


# SBML ------------------------------------------------------------------------------------------


def sbml_reference(path: Path, text: str, duration: float) -> Simulation:
    """Return the solution of an SBML model by libroadrunner.

    Parameters
    ----------
    path : Path
        File of the model, for its name.
    text : str
        The model in SBML.
    duration : float
        In the unit of time of the model.
    """
    import roadrunner

    from cubie_flow.systems.importers.markup import Markup
    from cubie_flow.systems.importers.sbml import read_sbml

    model = read_sbml(path.stem, Markup.check(text.encode(), path.name), path.name)
    roadrunner.Logger.setLevel(roadrunner.Logger.LOG_ERROR)
    simulator = roadrunner.RoadRunner(text)
    integrator = simulator.getIntegrator()
    integrator.setValue("relative_tolerance", 1e-10)
    integrator.setValue("absolute_tolerance", ATOL)
    integrator.setValue("maximum_num_steps", 1_000_000)
    species = [*simulator.model.getFloatingSpeciesIds(), *simulator.model.getBoundarySpeciesIds()]
    species = [name for name in species if name in model.amounts]
    selected = ["time", *species]
    times = np.linspace(0.0, duration, TIMES)
    table = np.asarray(simulator.simulate(0.0, duration, TIMES, selected))
    values = {name: table[:, i + 1] for i, name in enumerate(species)}

    def ours(data: Any) -> dict[str, Array]:
        known: dict[str, Any] = {item.name: item.value for item in model.system.parameters}
        known |= {state.name: data[state.name].values[0] for state in model.system.states}
        columns = evaluate([model.amounts[name] for name in species], {**known, "t": times})
        return {
            name: np.broadcast_to(column, times.shape)
            for name, column in zip(species, columns, strict=True)
        }

    return Simulation(times, values, ours, model.system)


def _antimony_to_sbml(path: Path) -> str:
    """Return a model of Antimony in SBML."""
    import antimony

    antimony.clearPreviousLoads()
    if antimony.loadAntimonyFile(str(path)) < 0:
        raise FlowError(antimony.getLastError())
    return str(antimony.getSBMLString(antimony.getMainModuleName()))


def _last_measurement(folder: Path) -> float:
    """Return the time of the last measurement of a PEtab problem."""
    last = 0.0
    for path in folder.glob("measurement*.tsv"):
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        column = rows[0].index("time")
        known = [float(row[column]) for row in rows[1:] if len(row) > column]
        last = max([last, *(time for time in known if np.isfinite(time))])
    return last or DURATION


# CellML ----------------------------------------------------------------------------------------


def cellml_reference(path: Path) -> Simulation:
    """Return the solution of a CellML model: SciPy integrates the Python code of libcellml.

    Raises
    ------
    FlowError
        If the model is refused, or its states are not in the order of libcellml.
    """
    system = OdeSystem.from_file(path)
    space, analysed = _export(path)
    duration = CELL_SECONDS / (_unit_factor(analysed.voi().variable(), "second") or 1.0)
    times = np.linspace(0.0, duration, CELL_TIMES)
    values = _integrate(space, times, duration)
    names = [state.name for state in system.states]
    handles = [state.variable() for state in analysed.states()]
    written = [handle.name() for handle in handles]
    if len(names) != len(written) or any(
        not (a == b or a.endswith(f"_{b}") or a.startswith(b))
        for a, b in zip(names, written, strict=True)
    ):
        raise FlowError(f"the states of '{path}' are in another order than those of libcellml")
    volts = {
        name: _unit_factor(handle, "volt") for name, handle in zip(names, handles, strict=True)
    }
    voltage = next((name for name in names if volts[name] and re.match(r"(?i)v|e$", name)), "")

    def ours(data: Any) -> dict[str, Array]:
        return {name: data[name].values[0] for name in names}

    return Simulation(
        times, dict(zip(names, values.T, strict=True)), ours, system, voltage,
        PEAK / volts[voltage] if voltage else 0.0,
    )  # fmt: skip


def _unit_factor(variable: Any, unit: str) -> float:
    """Return the unit of a variable as a multiple of `unit`; 0 for incompatible units."""
    import libcellml

    wanted = libcellml.Units(f"one_{unit}")
    wanted.addUnit(unit)
    return float(libcellml.Units.scalingFactor(wanted, variable.units()))


def _export(path: Path) -> tuple[dict[str, Any], Any]:
    """Return the namespace of the Python code of libcellml for a model, and its analysed model."""
    import libcellml

    from cubie_flow.systems.importers.cellml_files import CellmlFile, whole_model
    from cubie_flow.systems.importers.markup import Markup

    analyser = libcellml.Analyser()
    analyser.analyseModel(whole_model(libcellml, CellmlFile(path, Markup.read(path))))
    profile = libcellml.GeneratorProfile(libcellml.GeneratorProfile.Profile.PYTHON)
    code = libcellml.Generator().implementationCode(analyser.analyserModel(), profile)
    space: dict[str, Any] = {}
    exec(compile(_order_rates(code), str(path), "exec"), space)
    space.update({name: _unbounded(getattr(math, name)) for name in ("exp", "sinh", "cosh")})
    return space, analyser.analyserModel()


def _order_rates(code: str) -> str:
    """Return the code of libcellml with every rate computed before another one reads it.

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
    """Return a function of Python that returns infinity on overflow, as in C."""

    def value(x: float) -> float:
        try:
            return function(x)
        except OverflowError:
            return math.inf

    return value


class _Cell:
    """The equations in the code of libcellml, with comparisons that can be frozen.

    Parameters
    ----------
    space : dict
        See `_export`.
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
        #: Results of the comparisons in one evaluation, in the order of their calls.
        self.truths: list[float] = []
        #: Results that replace those of the comparisons; None if they are not frozen.
        self.frozen: list[float] | None = None
        for name in _COMPARE:
            if name in space:
                space[name] = self._record(space[name])

    def _record(self, compare: Callable[[float, float], float]) -> Callable[[float, float], float]:
        """Return a comparison that records its results, and can be frozen."""

        def value(x: float, y: float) -> float:
            self.truths.append(compare(x, y))
            return self.truths[-1] if self.frozen is None else self.frozen[len(self.truths) - 1]

        return value

    def rhs(self, t: float, y: Array) -> list[float]:
        """Return the rates."""
        self.truths = []
        self.compute(t, y.tolist(), self.rates, *self.rest)
        return [float(rate) for rate in self.rates]

    def freeze(self, t: float, y: Array) -> None:
        """Freeze every comparison at its present result."""
        self.frozen = None
        self.rhs(t, y)
        self.frozen = self.truths

    def changes(self, t: float, y: Array) -> bool:
        """Return whether a comparison differs from its frozen result."""
        self.rhs(t, y)
        return self.truths != self.frozen


def _integrate(space: dict[str, Any], times: Array, duration: float) -> Array:
    """Return the states over the times, shape (times, states).

    Comparisons are frozen until one changes. The integrator restarts at that time.

    Parameters
    ----------
    space : dict
        See `_export`.
    times : ndarray, shape (times,)
    duration : float
        In the unit of time of the model.
    """
    from scipy.integrate import LSODA

    cell = _Cell(space)
    t, y, at = 0.0, np.array(cell.start, float), 0
    values = np.empty((len(times), len(y)))
    for _ in range(PIECES):
        cell.freeze(t, y)
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
                    t, cut = _first_change(cell, dense, low, time), True
                    y = dense(t)
                    break
                low = time
            reached = int(np.searchsorted(times, t, "right"))
            if reached > at:
                values[at:reached] = dense(times[at:reached]).T
                at = reached
        if not cut:
            return values
    raise RuntimeError("comparisons change without end")


def _first_change(cell: _Cell, dense: Callable[[float], Array], low: float, high: float) -> float:
    """Return the first time at which a comparison differs from its frozen result."""
    while low < (middle := 0.5 * (low + high)) < high:
        if cell.changes(middle, dense(middle)):
            high = middle
        else:
            low = middle
    return high


# every model --------------------------------------------------------------------------------


def model_files(folder: Path) -> Iterator[Path]:
    """Yield the files of the models of a folder."""
    yield from sorted((folder / "cellml-models").glob("*.cellml"))
    yield from sorted((folder / "antimony-models").glob("*.ant"))
    for problem in sorted((folder / "petab-problems").glob("*")):
        yield from sorted(problem.glob("*model*.xml"))[:1]
    for case in sorted((folder / "sbml-cases").glob("*")):
        yield from sorted(case.glob("*-sbml-l3v?.xml"))[-1:]


def reference(path: Path) -> Simulation:
    """Return the solution of a model by an independent simulator.

    Raises
    ------
    FlowError
        If cubie_flow refuses the model.
    """
    if path.suffix == ".cellml":
        return cellml_reference(path)
    if path.suffix == ".ant":
        return sbml_reference(path, _antimony_to_sbml(path), DURATION)
    text = path.read_text(encoding="utf-8")
    settings = path.parent / f"{path.parent.name}-settings.txt"
    if settings.exists():
        from benchmarks.sbml import Settings

        return sbml_reference(path, text, max(float(Settings.read(settings).times[-1]), 1e-3))
    return sbml_reference(path, text, _last_measurement(path.parent))


def compare_model(path: Path, methods: Sequence[str] = METHODS) -> list[Row]:
    """Return the comparison of a model with every method."""
    name = f"{path.parent.name}/{path.name}" if path.suffix == ".xml" else path.name
    try:
        simulation = reference(path)
    except FlowError as error:
        return [Row(name, "-", "refused", notes=str(error)[:160])]
    except Exception as error:
        return [Row(name, "-", "no reference", notes=f"{type(error).__name__}: {error}"[:160])]
    return [_compare_method(name, simulation, method) for method in methods]


def _compare_method(name: str, simulation: Simulation, method: str) -> Row:
    """Return the comparison of a model with one method."""
    began = monotonic()
    peaked = _peaks(simulation, simulation.values)
    try:
        data = _solve(simulation, method)
    except FlowError as refused:
        return Row(name, method, "refused", right_peaked=peaked, notes=str(refused)[:160])
    seconds = monotonic() - began
    ours = simulation.ours(data)
    error, worst = _error(simulation.values, ours)
    status = _NAMES[int(data["status"][0])]
    row = Row(name, method, status, error, worst, _peaks(simulation, ours), peaked, seconds)
    if row.agrees:
        return row
    atol = recorded_atol(data.attrs)
    less = {state: FINER * value for state, value in atol.items()}
    control = ControllerChoice(rtol=1e-6 * FINER, atol=less, max_steps=10_000_000)
    again = simulation.ours(_solve(simulation, method, controller=control))
    faint = worst.partition("[")[0] in recorded_faint(data.attrs)
    return evolve(row, finer=_error(simulation.values, again)[0], warned=faint)


def _solve(simulation: Simulation, method: str, **more: Any) -> Any:
    return solve(
        simulation.system, duration=float(simulation.times[-1]), times=simulation.times.tolist(),
        algorithm=method, target="cpu", **more,
    )  # fmt: skip


def _peaks(simulation: Simulation, values: dict[str, Array]) -> bool | None:
    """Return whether the voltage has an action potential; None for a model without a voltage."""
    if not simulation.voltage:
        return None
    voltage = values[simulation.voltage]
    return bool(
        np.isfinite(voltage).any() and np.nanmax(voltage) - np.nanmin(voltage) > simulation.peak
    )


def _error(wanted: dict[str, Array], ours: dict[str, Array]) -> tuple[float, str]:
    """Return the largest mean difference divided by the peak of a quantity, and its description."""
    worst, text = 0.0, ""
    for name, values in wanted.items():
        peak = float(np.nanmax(np.abs(values), initial=0.0))
        apart = np.abs(np.asarray(ours[name]) - values)
        error = float(np.mean(apart)) / max(peak, NOTHING)
        if not error <= worst:
            at = int(np.nanargmax(apart)) if np.isfinite(apart).any() else 0
            worst = error
            text = f"{name}[{at}] is {ours[name][at]:.6g}, right is {values[at]:.6g}"
    return worst, text


def command(folder: Path, jobs: int, only: str = "", output: Path | None = None) -> int:
    """Print the table of all public models; return 1 if a model disagrees.

    Parameters
    ----------
    folder : Path
    jobs : int
        Number of worker processes.
    only : str
        Texts separated by commas; models with one of them in their path are compared.
    output : Path, optional
        JSON file of the rows. Rows of compared models are replaced, those of others stay.
    """
    parts = only.split(",")
    paths = [path for path in model_files(folder) if any(part in str(path) for part in parts)]
    if not paths:
        print(f"'{folder}' has no models")
        return 0
    print(HEAD)
    verdicts: Counter[str] = Counter()
    models: dict[str, list[dict[str, Any]]] = {}
    if output is not None and output.exists():
        models = record.read(output)["models"]
    for path, several in _compare_models(paths, max(1, jobs)):
        models[str(path.relative_to(folder))] = list(map(_row_mapping, several))
        for row in several:
            print(row, flush=True)
            verdicts[row.verdict] += 1
        if output is not None:
            record.write(_record(models), output)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    print(f"{len(paths)} models; rows: {counts}")
    return int("differs" in verdicts)


def _compare_models(paths: Sequence[Path], jobs: int) -> Iterator[tuple[Path, list[Row]]]:
    """Yield the rows of models, from worker processes that are replaced after some models."""
    # With max_tasks_per_child a pool of Python 3.11 may wait for ever (CPython issue 115634).
    for first in range(0, len(paths), BATCH * jobs):
        some = paths[first : first + BATCH * jobs]
        with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
            yield from zip(some, pool.map(compare_model, some), strict=True)


def _row_mapping(row: Row) -> dict[str, Any]:
    """Return a row for the JSON file, without empty entries."""
    entries = {key: value for key, value in asdict(row).items() if value not in ("", None)}
    for name in ("error", "seconds", "finer"):
        if np.isfinite(entries[name]):
            entries[name] = float(f"{entries[name]:.2g}")
        else:
            del entries[name]
    return {**entries, "verdict": row.verdict}


def _record(models: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the content of the JSON file."""
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
