"""The one schema of ``conf/``: which keys there are and what each may hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from cubie_flow.credentials import refuse_credentials, remember
from cubie_flow.engines.clusters import CLUSTERS
from cubie_flow.errors import FlowError, nearest
from cubie_flow.process.signals import read_limit

if TYPE_CHECKING:
    from cubie_flow.study.study import Study
    from cubie_flow.systems import OdeSystem

Check = Callable[[str, Any], Any]
SUFFIX = "_location"


def shipped(folder: str) -> Path:
    """Return the folder ``conf`` or ``experiments``: in the package of a wheel, else beside it."""
    package = Path(__file__).parents[1]
    inside = package / folder
    return inside if inside.is_dir() else package.parent / folder


def number(*, above: float = -math.inf, least: float = -math.inf, optional: bool = False) -> Check:
    """Return the check of a finite number."""
    if above > -math.inf:
        allowed = f"a number above {above:g}"
    elif least > -math.inf:
        allowed = f"a number of at least {least:g}"
    else:
        allowed = "a number"
    allowed += ", or null" if optional else ""

    def check(key: str, value: Any) -> float | None:
        if value is None and optional:
            return None
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        if not (fits and math.isfinite(value) and value > above and value >= least):
            raise FlowError(f"{key} is {value!r}; it must be {allowed}")
        return float(value)

    return check


def whole(least: int, *, optional: bool = False) -> Check:
    """Return the check of a whole number; 1e6 is one too."""

    def check(key: str, value: Any) -> int | None:
        if value is None and optional:
            return None
        fits = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not fits or value < least:
            allowed = f"a whole number of at least {least}" + (", or null" if optional else "")
            raise FlowError(f"{key} is {value!r}; it must be {allowed}")
        return int(value)

    return check


def choice(*allowed: str) -> Check:
    """Return the check of one word of several."""

    def check(key: str, value: Any) -> str:
        if value not in allowed:
            raise FlowError(
                f"{key} is {value!r}; it must be one of {', '.join(allowed)}"
                f"{nearest(str(value), allowed)}"
            )
        return str(value)

    return check


def optional_choice(*allowed: str) -> Check:
    """Return the check of one word of several, or null."""
    one = choice(*allowed)

    def check(key: str, value: Any) -> str | None:
        return None if value is None else str(one(key, value))

    return check


def flag(key: str, value: Any) -> bool:
    """Check true or false."""
    if not isinstance(value, bool):
        raise FlowError(f"{key} is {value!r}; it must be true or false")
    return value


def text(*, optional: bool = False) -> Check:
    """Return the check of a text that is not empty."""

    def check(key: str, value: Any) -> str | None:
        if value is None and optional:
            return None
        if not isinstance(value, str) or not value:
            allowed = "a text" + (", or null" if optional else "")
            raise FlowError(f"{key} is {value!r}; it must be {allowed}")
        return value

    return check


def architectures(key: str, value: Any) -> str | None:
    """Check one CUDA architecture, or several for a plan; return them joined by commas."""
    if isinstance(value, list):
        value = ",".join(map(str, value))
    return text(optional=True)(key, value)  # type: ignore[no-any-return]


def devices(key: str, value: Any) -> int | tuple[int, ...] | None:
    """Check the number of a GPU, a list of them, or null for all."""
    if value is None:
        return None
    one = whole(0)
    if isinstance(value, list) and value:
        return tuple(one(f"{key}[{i}]", item) for i, item in enumerate(value))
    return int(one(key, value))


def mapping(key: str, value: Any) -> dict[str, Any]:
    """Check a mapping of names to anything; null is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise FlowError(f"{key} is {value!r}; it must be a mapping of names, such as {{x: 1}}")
    return {str(name): item for name, item in value.items()}


def axes(key: str, value: Any) -> list[dict[str, Any]]:
    """Check the axes of a sweep: a list of mappings from quantities to values."""
    if not isinstance(value, list):
        raise FlowError(f"{key} is {value!r}; it must be a list of mappings, such as [{{x: [1]}}]")
    return [mapping(f"{key}[{i}]", axis) for i, axis in enumerate(value)]


def tolerance(*, absolute: bool) -> Check:
    """Return the check of a tolerance: one number, or one per state; ``auto`` if absolute."""
    one = number(least=0.0) if absolute else number(above=0.0)

    def check(key: str, value: Any) -> float | dict[str, float] | str:
        if isinstance(value, Mapping):
            return {str(name): one(f"{key}.{name}", item) for name, item in value.items()}
        if absolute and value == "auto":
            return "auto"
        if absolute and isinstance(value, str):
            raise FlowError(
                f"{key} is '{value}'; it must be a number of at least 0, one per state, or auto"
            )
        return float(one(key, value))

    return check


def names(key: str, value: Any) -> list[str] | None:
    """Check a list of names, one name, or null."""
    if value is None:
        return None
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise FlowError(f"{key} is {value!r}; it must be a list of names, such as [x, y], or null")
    return list(value)


def times(key: str, value: Any) -> list[float] | None:
    """Check a list of times, or null."""
    if value is None:
        return None
    if not isinstance(value, list) or not value:
        raise FlowError(f"{key} is {value!r}; it must be a list of times, such as [0, 1], or null")
    one = number(least=0.0)
    return [one(f"{key}[{i}]", item) for i, item in enumerate(value)]


def data(key: str, value: Any) -> Any:
    """Check the name of a file, or a mapping of columns, or null; they are read with the study."""
    if value is None or (isinstance(value, str) and value) or isinstance(value, Mapping):
        return value
    raise FlowError(
        f"{key} is {value!r}; it must be the name of a .csv or .parquet file, a mapping of "
        "columns, or null"
    )


BUFFER_KEYS: Mapping[str, Check] = {
    "auto": flag,
    "sweep": names,
    "search": choice("all", "one_at_a_time", "pareto"),
    "limit": whole(1),
}


def buffers(key: str, value: Any) -> dict[str, Any]:
    """Check what is said of buffers: locations by name under ``locations``, and `BUFFER_KEYS`."""
    found: dict[str, Any] = {"auto": False, "sweep": None, "search": "all", "limit": 64}
    places = {}
    word = choice("register", "local", "shared")
    for name, item in mapping(key, value).items():
        if name in BUFFER_KEYS:
            found[name] = BUFFER_KEYS[name](f"{key}.{name}", item)
            continue
        if not isinstance(item, str):
            raise FlowError(
                f"'{key}.{name}' is {item!r}; it must be the location of a buffer, or one of the "
                f"keys {', '.join(BUFFER_KEYS)}{nearest(name, BUFFER_KEYS)}"
            )
        places[name.removesuffix(SUFFIX)] = word(f"{key}.{name}", item)
    return {**found, "locations": places}


def rescue(key: str, value: Any) -> Any:
    """Check off, default or a list; what is in the list is read with the study."""
    if value not in (None, False, "off", "default") and not isinstance(value, list):
        raise FlowError(f"{key} is {value!r}; it must be off, default, or a list of attempts")
    return value


def address(key: str, value: Any) -> str | None:
    """Check a URL without credentials, or null."""
    found = text(optional=True)(key, value)
    if found is not None:
        refuse_credentials(found)
        if not found.partition("://")[2].strip("/"):
            raise FlowError(f"{key} is {value!r}; it must be a URL such as s3://bucket/results")
    return found  # type: ignore[no-any-return]


def options(key: str, value: Any) -> dict[str, Any]:
    """Check a mapping whose values are not to be shown."""
    if value is not None and not isinstance(value, Mapping):
        raise FlowError(f"{key} must be a mapping, such as {{anon: true}}, or null")
    remember(found := mapping(key, value))
    return found


Schema = Mapping[str, "Check | Schema"]

SCHEMA: Schema = {
    "task": {"name": choice("run", "plan", "placement", "import", "doctor", "clear_cache")},
    "to": text(optional=True),
    "study": text(optional=True),
    "system": mapping,
    "algorithm": {"name": text(), "linear_solver": choice("auto", "sparse", "pivoted", "bicgstab")},
    "rescue": rescue,
    "duration": number(least=0.0, optional=True),
    "t_start": number(),
    "precision": choice("float32", "float64"),
    "controller": {
        "kind": choice("default", "fixed", "i", "pi", "pid", "gustafsson"),
        "rtol": tolerance(absolute=False),
        "atol": tolerance(absolute=True),
        "dt": number(above=0.0, optional=True),
        "dt_min": number(least=0.0),
        "dt_max": number(above=0.0, optional=True),
        "max_steps": whole(1),
        "safety": number(above=0.0, optional=True),
        "min_factor": number(above=0.0, optional=True),
        "max_factor": number(above=1.0, optional=True),
    },
    "target": {
        "kind": choice("auto", "cpu", "cuda", "simulator"),
        "threads": whole(1, optional=True),
        "lanes": whole(1, optional=True),
        "math": choice("portable", "native"),
        "arch": architectures,
        "block_size": whole(1),
        "device": devices,
    },
    "buffers": buffers,
    "batch": {
        "kind": choice("single", "grid", "zip", "sobol", "latin_hypercube", "table"),
        "values": mapping,
        "size": whole(1, optional=True),
        "seed": whole(0),
        "path": text(optional=True),
        "sweep": axes,
        "order": choice("given", "cost"),
    },
    "output": {
        "save_every": number(above=0.0, optional=True),
        "times": times,
        "variables": names,
        "summaries": names,
        "sensitivities": names,
        "compare": data,
        "trajectories": {"where": text(optional=True)},
        "event_times": whole(0),
    },
    "engine": {
        "kind": choice("local", "dask"),
        "progress": flag,
        "time_limit": read_limit,
        "confirm_runs": whole(1),
        "confirm_bytes": whole(1),
        "workers": whole(1, optional=True),
        "scheduler": text(optional=True),
        "cluster": optional_choice(*CLUSTERS),
        "options": mapping,
        "retries": whole(0),
    },
    "storage": {
        "folder": text(),
        "url": address,
        "client": choice("fsspec", "obstore", "icechunk"),
        "options": options,
        "lease": number(above=0, optional=True),
        "overwrite": flag,
        "picture": flag,
        "shard_runs": whole(1, optional=True),
    },
    "dry_run": flag,
    "confirm": flag,
}


def checked(given: Any, schema: Schema = SCHEMA, key: str = "") -> dict[str, Any]:
    """Return a composed config with every key known and every value checked.

    Raises
    ------
    FlowError
        Naming the key, its value, what is allowed and the nearest name.
    """
    where = f"{key}." if key else ""
    if not isinstance(given, Mapping):
        raise FlowError(
            f"{key} is {given!r}; it has the keys {', '.join(schema)}, so write "
            f"{where}{next(iter(schema))}=... or choose one of its files with {key}=NAME"
        )
    for name in given:
        if name not in schema:
            raise FlowError(
                f"'{where}{name}' is not a key of the config (allowed"
                f"{f' in {key}' if key else ''}: {', '.join(schema)}){nearest(name, schema)}"
            )
    found = {}
    for name, rule in schema.items():
        if name not in given:
            raise FlowError(f"the config has no key '{where}{name}'")
        if isinstance(rule, Mapping):
            found[name] = checked(given[name], rule, where + name)
        else:
            found[name] = rule(where + name, given[name])
    return found


def refuse_targets(config: Any, key: str = "") -> None:
    """Refuse ``_target_``, which makes Hydra run code, anywhere in a config.

    Raises
    ------
    FlowError
        Naming where it is.
    """
    items = dict(config) if isinstance(config, Mapping) else {}
    if isinstance(config, list):
        items = dict(enumerate(config))
    for name, item in items.items():
        where = f"{key}.{name}" if key else str(name)
        if name == "_target_":
            raise FlowError(f"'{where}' is refused: a config holds values and never names code")
        refuse_targets(item, where)


def given_keys(overrides: Sequence[str]) -> frozenset[str]:
    """Return the keys that a command line gives a value, those inside of mappings too."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    found = set()
    for override in overrides:
        key, _, text = override.lstrip("+").partition("=")
        if key.startswith("~"):
            continue
        found.add(key)
        if text.lstrip().startswith("{"):
            inside = OverridesParser.create().parse_override(override).value()
            found.update(f"{key}.{name}" for name in inside if isinstance(inside, Mapping))
    return frozenset(found)


@frozen(eq=False)
class Settings:
    """A validated config.

    Attributes
    ----------
    values
        Every key of `SCHEMA`, checked.
    keys
        What the command line gave a value.
    notes
        What was decided for the user, one sentence each.
    """

    values: dict[str, Any]
    keys: frozenset[str] = frozenset()
    notes: list[str] = field(factory=list)

    @classmethod
    def from_container(cls, container: Any, overrides: Sequence[str] = ()) -> Settings:
        """Check a composed, resolved config.

        Parameters
        ----------
        container
            The config as plain values.
        overrides
            The command line that it was composed with.

        Raises
        ------
        FlowError
            For the first mistake found.
        """
        refuse_targets(container)
        settings = cls(checked(container), given_keys(overrides))
        to = settings.values["to"]
        if to is not None and settings.task != "import":
            raise FlowError(f"to={to} is for task=import, not task={settings.task}")
        return settings

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.values["task"]["name"])

    def system(self) -> OdeSystem:
        """Return the system that the config describes.

        Raises
        ------
        FlowError
            For a mistake in the model.
        """
        from cubie_flow.config.defaults import load_system

        return load_system(self.values["system"], self.keys)

    def study(self, system: OdeSystem | None = None) -> Study:
        """Return the study that the config describes (imports the solver).

        Parameters
        ----------
        system
            Instead of the model that the config names.

        Raises
        ------
        FlowError
            For a mistake in the model or the batch.
        """
        from cubie_flow.config.defaults import batch_design
        from cubie_flow.study.attempts import read_rescue
        from cubie_flow.study.options import ControllerChoice, OutputChoice, TargetChoice
        from cubie_flow.study.study import Study
        from cubie_flow.study.warnings import remarks
        from cubie_flow.systems.sensitivities import with_sensitivities

        v = self.values
        if system is None:
            system = self.system()
        keys = self.keys if v["duration"] is not None else self.keys - {"duration"}
        design, notes = batch_design(v["batch"], system, keys)
        self.notes.extend(notes)
        output = dict(v["output"])
        output["where"] = output.pop("trajectories")["where"]
        integrated = system.with_given(design.names)
        augmented = with_sensitivities(integrated, tuple(output["sensitivities"] or ()))
        states = [state.name for state in augmented.states]
        for key in ("variables", "summaries"):
            if output[key] == ["all"] and "all" not in states:
                output[key] = states
        study = Study(
            name=v["study"] or system.name,
            system=system,
            design=design,
            duration=v["duration"],
            t_start=v["t_start"],
            algorithm=v["algorithm"]["name"],
            linear_solver=v["algorithm"]["linear_solver"],
            rescue=read_rescue(v["rescue"]),
            precision=v["precision"],
            controller=ControllerChoice(**v["controller"]),
            output=OutputChoice(**output),
            target=TargetChoice(**v["target"]),
            locations=v["buffers"]["locations"],
            shard_runs=v["storage"]["shard_runs"],
            order=v["batch"]["order"],
        )
        self.notes.extend(remarks(study))
        return study
