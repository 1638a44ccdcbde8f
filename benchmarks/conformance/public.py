"""Public models against independent simulators: libroadrunner, and libcellml's Python with SciPy.

    python -m benchmarks conformance --public ../shared

The folder holds ``cellml-models`` (cardiac cells and others), ``antimony-models``,
``petab-problems`` and ``sbml-cases``; what is absent is left out. Every model is integrated at the
default settings of `solve` with ``algorithm=auto`` and with four stiff methods.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from attrs import field, frozen

from cubie_flow import OdeSystem, solve
from cubie_flow.errors import FlowError
from cubie_flow.expressions.evaluate import evaluate
from cubie_flow.integrators.status import STATUS

Array = Any
METHODS = ("auto", "rodas5p", "radau_iia_5", "bdf", "kvaerno5")
#: Mean difference over time, beside the peak of the quantity, below which results agree.
AGREES = 1e-3
#: Saved times, and steps of the reference in a stimulated cell: no pulse is shorter.
TIMES, CELL_STEPS = 201, 4000
#: Duration of a model that has none of its own: model units; of a cell: seconds.
DURATION, CELL_SECONDS = 10.0, 1.0
_SECONDS = {"second": 1.0, "s": 1.0, "millisecond": 1e-3, "ms": 1e-3}
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
    zero : float
        Half of an action potential: 0 in the unit of the voltage.
    """

    times: Array
    values: dict[str, Array]
    ours: Callable[[Any], dict[str, Array]]
    system: OdeSystem
    voltage: str = ""
    zero: float = 0.0


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

    @property
    def agrees(self) -> bool:
        """Whether nothing is wrong with it."""
        return (
            self.status == "success" and self.error <= AGREES and self.peaked == self.right_peaked
        )

    def __str__(self) -> str:
        peak = {None: "-", True: "yes", False: "no"}
        return (
            f"{self.model:<52.52} {self.method:<12} {self.status:<15} {self.error:>9.1e} "
            f"{peak[self.peaked]:>4} {peak[self.right_peaked]:>4} {self.seconds:>6.1f} "
            f"{'' if self.agrees else self.worst or self.notes}"
        )


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
    integrator.setValue("absolute_tolerance", 1e-16)
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
    space = _exported(path)
    unit = str(space["VOI_INFO"]["units"])
    duration = CELL_SECONDS / _SECONDS.get(unit, 1.0)
    times = np.linspace(0.0, duration, TIMES)
    values = _integrated(space, times, duration)
    names = [state.name for state in system.states]
    written = [entry["name"] for entry in space["STATE_INFO"]]
    if len(names) != len(written) or any(
        not (a == b or a.endswith(f"_{b}") or a.startswith(b))
        for a, b in zip(names, written, strict=True)
    ):
        raise FlowError(f"the states of '{path}' are in another order than those of libcellml")
    voltage = next(
        (
            (name, entry["units"])
            for name, entry in zip(names, space["STATE_INFO"], strict=True)
            if re.fullmatch(r"(mV|millivolt|V|volt)", entry["units"])
            and re.match(r"(?i)v|e$", entry["name"])
        ),
        ("", ""),
    )

    def ours(data: Any) -> dict[str, Array]:
        return {name: data[name].values[0] for name in names}

    return Right(
        times, dict(zip(names, values.T, strict=True)), ours, system, voltage[0], 0.0
    )  # fmt: skip


def _exported(path: Path) -> dict[str, Any]:
    """Return the names of the module that libcellml writes for a model."""
    import libcellml

    from cubie_flow.systems.importers.cellml_files import CellmlFile, whole_model
    from cubie_flow.systems.importers.markup import Markup

    analyser = libcellml.Analyser()
    analyser.analyseModel(whole_model(libcellml, CellmlFile(path, Markup.read(path))))
    profile = libcellml.GeneratorProfile(libcellml.GeneratorProfile.Profile.PYTHON)
    code = libcellml.Generator().implementationCode(analyser.analyserModel(), profile)
    space: dict[str, Any] = {}
    exec(compile(code, str(path), "exec"), space)
    return space


def _integrated(space: dict[str, Any], times: Array, duration: float) -> Array:
    """Return the states over the times, shape (times, states)."""
    from scipy.integrate import solve_ivp

    states, rates = space["create_states_array"](), space["create_states_array"]()
    constants = space["create_constants_array"]()
    computed = space["create_computed_constants_array"]()
    algebraic = space["create_algebraic_variables_array"]()
    space["initialise_arrays"](states, rates, constants, computed, algebraic)
    space["compute_computed_constants"](0.0, states, rates, constants, computed, algebraic)

    def rhs(t: float, y: Array) -> list[float]:
        space["compute_rates"](t, y.tolist(), rates, constants, computed, algebraic)
        return [float(rate) for rate in rates]

    found = solve_ivp(
        rhs, (0.0, duration), np.array(states, float), "LSODA", times, rtol=1e-8, atol=1e-10,
        max_step=duration / CELL_STEPS,
    )  # fmt: skip
    if not found.success:
        raise FlowError(f"SciPy: {found.message}")
    return found.y.T


# every model --------------------------------------------------------------------------------


def files(folder: Path) -> Iterator[Path]:
    """Yield the models of a folder of shared files."""
    yield from sorted((folder / "cellml-models").glob("*.cellml"))
    yield from sorted((folder / "antimony-models").glob("*.ant"))
    for problem in sorted((folder / "petab-problems").glob("*")):
        yield from sorted(problem.glob("model*.xml"))[:1]
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
        data = solve(
            about.system, duration=float(about.times[-1]), times=about.times.tolist(),
            algorithm=method, target="cpu",
        )  # fmt: skip
    except FlowError as refused:
        return Row(name, method, "refused", right_peaked=peaked, notes=str(refused)[:160])
    status = _NAMES[int(data["status"][0])]
    found = about.ours(data)
    error, worst = _error(about.values, found)
    return Row(
        name, method, status, error, worst, _peaks(about, found), peaked, monotonic() - began
    )  # fmt: skip


def _peaks(about: Right, values: dict[str, Array]) -> bool | None:
    if not about.voltage:
        return None
    return bool(np.nanmax(values[about.voltage]) > about.zero)


def _error(wanted: dict[str, Array], found: dict[str, Array]) -> tuple[float, str]:
    """Return the largest mean difference beside the peak of a quantity, and where it is."""
    worst, said = 0.0, ""
    for name, values in wanted.items():
        peak = float(np.nanmax(np.abs(values), initial=0.0))
        apart = np.abs(np.asarray(found[name]) - values)
        error = float(np.mean(apart)) / peak if peak > 1e-300 else float(np.max(apart))
        if not error <= worst:
            at = int(np.nanargmax(apart)) if np.isfinite(apart).any() else 0
            worst = error
            said = f"{name}[{at}] is {found[name][at]:.6g}, right is {values[at]:.6g}"
    return worst, said


def command(folder: Path, jobs: int, only: str = "") -> int:
    """Print the table of all public models; return 1 if one disagrees."""
    found = [path for path in files(folder) if only in str(path)]
    if not found:
        print(f"'{folder}' has no models")
        return 0
    print(HEAD)
    wrong: list[Row] = []
    models = 0
    with ProcessPoolExecutor(max(1, jobs), get_context("spawn"), max_tasks_per_child=20) as pool:
        for several in pool.map(rows, found):
            models += 1
            for row in several:
                print(row, flush=True)
                if not row.agrees:
                    wrong.append(row)
    print(f"{models} models; {len(wrong)} rows that do not agree")
    return int(bool(wrong))
