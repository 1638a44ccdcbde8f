"""Cases of the SBML Test Suite, integrated and compared with their references.

    python -m benchmarks sbml FOLDER                 # every case of the folder
    python -m benchmarks sbml FOLDER 00001 00042     # only these

FOLDER has the layout of the semantic cases of the suite (sbml.org): NNNNN/NNNNN-sbml-lXvY.xml (the
highest level is used), NNNNN-settings.txt, NNNNN-results.csv and NNNNN-model.m. A case passes if
|ours - theirs| <= absolute + relative*|theirs| for every variable at every time, with the
tolerances of the case. States come from the compiled CPU kernel (rodas5p, rtol 1e-9), as do
quantities that read the past. Others that follow from the states, such as an amount from a
concentration, are computed with NumPy from the graph of the model. A model that the importer
refuses counts as unsupported, by the feature in the message.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from attrs import evolve, frozen

from cubie_flow.errors import FlowError
from cubie_flow.expressions.evaluate import evaluate
from cubie_flow.expressions.graph import Node, symbol
from cubie_flow.systems.delays import has_delays
from cubie_flow.systems.importers.markup import Markup
from cubie_flow.systems.importers.sbml import SbmlModel, read_sbml
from cubie_flow.systems.quantities import Observable

ALGORITHM, RTOL = "rodas5p", 1e-9
PASSED, UNSUPPORTED, FAILED = "passed", "unsupported", "failed"
_MODEL = re.compile(r"\d+-sbml-l(\d)v(\d)\.xml")
Array = Any


@frozen
class Settings:
    """The contents of ``NNNNN-settings.txt``.

    Parameters
    ----------
    times : ndarray
        Times of the results.
    variables : tuple of str
        Columns of the results after the time.
    absolute, relative : float
        Tolerances.
    amounts, concentrations : frozenset of str
        Species whose column is an amount or a concentration.
    """

    times: Array
    variables: tuple[str, ...]
    absolute: float
    relative: float
    amounts: frozenset[str]
    concentrations: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> Settings:
        """Return the settings of a case."""
        given = {}
        for line in path.read_text(encoding="utf-8-sig").splitlines():
            key, _, value = line.partition(":")
            given[key.strip()] = value.strip()

        def words(key: str) -> tuple[str, ...]:
            return tuple(word.strip() for word in given.get(key, "").split(",") if word.strip())

        start = float(given["start"])
        return cls(
            times=np.linspace(start, start + float(given["duration"]), int(given["steps"]) + 1),
            variables=words("variables"),
            absolute=float(given["absolute"]),
            relative=float(given["relative"]),
            amounts=frozenset(words("amount")),
            concentrations=frozenset(words("concentration")),
        )


#: Tag of cases whose results need events of equal priority in random order. Ours are executed in
#: the order of the model, so that a study is reproducible.
_RANDOM = "RandomEventExecution"


@frozen
class Outcome:
    """The outcome of a case: one word, the reason, and the tags of the case."""

    case: str
    word: str
    reason: str = ""
    tags: str = ""


def run_case(folder: Path) -> Outcome:
    """Integrate one case and compare it."""
    case = folder.name
    tags = _tags(folder / f"{case}-model.m")
    if _RANDOM in tags:
        return Outcome(case, UNSUPPORTED, "events of equal priority in random order", tags)
    try:
        path = _model_of(folder)
        model = read_sbml(path.stem, Markup.read(path), str(path))
    except FlowError as error:
        return Outcome(case, UNSUPPORTED, str(error), tags)
    settings = Settings.read(folder / f"{case}-settings.txt")
    try:
        found = _results(model, settings)
    except FlowError as error:
        return Outcome(case, FAILED, str(error), tags)
    reason = _difference(found, _reference(folder / f"{case}-results.csv"), settings)
    return Outcome(case, FAILED if reason else PASSED, reason, tags)


def _model_of(folder: Path) -> Path:
    found = [(m.groups(), path) for path in folder.iterdir() if (m := _MODEL.fullmatch(path.name))]
    if not found:
        raise FlowError(f"'{folder}' holds no model")
    return max(found)[1]


def _tags(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    lines = re.findall(r"^\s*(?:componentTags|testTags):(.*)$", text, re.MULTILINE)
    return ", ".join(word.strip() for line in lines for word in line.split(",") if word.strip())


def _results(model: SbmlModel, settings: Settings) -> dict[str, Array]:
    """Return every variable at the saved times."""
    from cubie_flow import solve

    wanted = [_node(model, settings, name) for name in settings.variables]
    system, times = model.system, settings.times
    seen = [Observable(f"wanted_{i}", node) for i, node in enumerate(wanted) if has_delays([node])]
    system = evolve(system, observables=(*system.observables, *seen))
    values: dict[str, Array] = {item.name: item.value for item in system.parameters}
    values["t"] = times
    if times[-1] > 0:
        atol = min(1e-12, 1e-5 * settings.absolute)
        result = solve(
            system,
            duration=float(times[-1]),
            times=[float(time) for time in times],
            algorithm=ALGORITHM,
            rtol=RTOL,
            atol=atol,
            target="cpu",
            variables=[item.name for item in (*system.states, *seen)],
            history=4096,
        )
        if int(result["status"][0]) != 0:
            raise FlowError(f"the integration ended with status {int(result['status'][0])}")
        for state in system.states:
            values[state.name] = result[state.name].values[0]
        for item in seen:
            values[item.name] = result[item.name].values[0]
            wanted[int(item.name.removeprefix("wanted_"))] = symbol(item.name)
    else:
        values.update({state.name: np.full(times.shape, state.value) for state in system.states})
    columns = evaluate(wanted, values)
    return {
        name: np.broadcast_to(column, times.shape)
        for name, column in zip(settings.variables, columns, strict=True)
    }


def _node(model: SbmlModel, settings: Settings, name: str) -> Node:
    for names, nodes in (
        (settings.amounts, model.amounts),
        (settings.concentrations, model.concentrations),
    ):
        if name in names and name in nodes:
            return nodes[name]
    if name not in model.values:
        raise FlowError(f"the model has no '{name}'")
    return model.values[name]


def _reference(path: Path) -> dict[str, Array]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    columns = np.array([[float(cell) for cell in row] for row in rows[1:]]).T
    return dict(zip(rows[0], columns, strict=True))


def _difference(found: dict[str, Array], reference: dict[str, Array], settings: Settings) -> str:
    """Return the first variable outside the tolerances, or nothing."""
    for name in settings.variables:
        ours, theirs = found[name], reference[name]
        if len(theirs) != len(ours):
            return f"'{name}' has {len(theirs)} values in the reference, {len(ours)} here"
        with np.errstate(invalid="ignore"):
            near = np.abs(ours - theirs) <= settings.absolute + settings.relative * np.abs(theirs)
        near |= (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        if not near.all():
            at = int(np.argmin(near))
            return (
                f"'{name}' is {ours[at]:.9g} at time {settings.times[at]:g}, "
                f"in the reference {theirs[at]:.9g}"
            )
    return ""


def _feature(reason: str) -> str:
    """Return the feature in the message of a refusal, without place and names."""
    return re.sub(r"'[^']*'", "'...'", reason.rpartition(": ")[2])


def report(outcomes: Sequence[Outcome]) -> str:
    """Return the counts, the unsupported features, and every failure."""
    lines = []
    for word in (PASSED, UNSUPPORTED, FAILED):
        lines.append(f"{word:<12} {sum(item.word == word for item in outcomes):>5}")
        if word == UNSUPPORTED:
            features: dict[str, int] = {}
            for item in outcomes:
                if item.word == word:
                    feature = _feature(item.reason)
                    features[feature] = features.get(feature, 0) + 1
            ranked = sorted(features.items(), key=lambda pair: -pair[1])
            lines += [f"{count:>18} {feature}" for feature, count in ranked]
    lines += [
        f"  {item.case}: {item.reason} [{item.tags}]" for item in outcomes if item.word == FAILED
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Run the cases of a folder; return 1 if one fails."""
    if not arguments or arguments[0].startswith("-"):
        print("python -m benchmarks sbml FOLDER [CASE ...]", file=sys.stderr)
        return 2
    root = Path(arguments[0])
    if not root.is_dir():
        print(f"'{root}' is not a folder", file=sys.stderr)
        return 2
    folders = sorted(path for path in root.iterdir() if (path / f"{path.name}-model.m").exists())
    if arguments[1:]:
        folders = [path for path in folders if path.name in arguments[1:]]
    started, outcomes = perf_counter(), []
    for number, folder in enumerate(folders, 1):
        outcomes.append(run_case(folder))
        if outcomes[-1].word == FAILED or number % 50 == 0:
            last = outcomes[-1]
            print(f"{number}/{len(folders)} {last.case} {last.word} {last.reason}", flush=True)
    print(report(outcomes))
    print(f"{len(outcomes)} cases in {perf_counter() - started:.0f} s")
    return int(any(item.word == FAILED for item in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
