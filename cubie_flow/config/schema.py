"""The schema of ``conf/``: every key and what it may hold, derived from one class per group."""

# ruff: noqa: RUF009 (a setting is a field)
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import asdict, field, fields, frozen

from cubie_flow.allowed_values import (
    CARRIES,
    DESIGNS,
    LINEAR_SOLVERS,
    LOCATIONS,
    ORDERS,
    PRECISIONS,
    SEARCHES,
)
from cubie_flow.credentials import refuse_credentials, remember
from cubie_flow.documents import DIGITS
from cubie_flow.engines.clusters import CLUSTERS
from cubie_flow.errors import FlowError, nearest
from cubie_flow.process.signals import read_limit
from cubie_flow.registries import CLIENTS, ENGINES
from cubie_flow.study.checks import (
    AXES,
    FLAG,
    MAPPING,
    NAMES,
    OBSERVED,
    RESCUE,
    TEXT,
    Check,
    choice,
    number,
    optional,
    refusal,
    registered,
    setting,
    whole,
)
from cubie_flow.study.options import ControllerChoice, OutputChoice, TargetChoice

if TYPE_CHECKING:
    from cubie_flow.batches import Design
    from cubie_flow.study.study import Study
    from cubie_flow.systems import OdeSystem

SUFFIX = "_location"


def shipped(folder: str) -> Path:
    """Return the folder ``conf`` or ``experiments``, inside or next to the package."""
    package = Path(__file__).parents[1]
    inside = package / folder
    return inside if inside.is_dir() else package.parent / folder


def _address(key: str, value: Any, allowed: str) -> str:
    address = str(TEXT(key, value))
    refuse_credentials(address)
    if not address.partition("://")[2].strip("/"):
        raise refusal(key, value, allowed)
    return address


def _secret_options(key: str, value: Any, allowed: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        # The value is left out of the message: it may hold a credential.
        raise FlowError(f"{key} must be a mapping, such as {{anon: true}}, or null")
    options: dict[str, Any] = MAPPING(key, value)
    remember(options)
    return options


ADDRESS = optional(Check("a URL such as s3://bucket/results", _address))
#: Values of such a mapping are never shown.
SECRET_OPTIONS = Check("a mapping, or null", _secret_options)


@frozen
class BuffersChoice:
    """The group ``buffers`` without the locations of buffers, whose names a kernel decides."""

    auto: bool = setting("buffers.auto", FLAG, False)
    sweep: list[str] | None = setting("buffers.sweep", NAMES, None)
    search: str = setting("buffers.search", choice(*SEARCHES), "all")
    limit: int = setting("buffers.limit", whole(1), 64)


def checks(group: type) -> dict[str, Check]:
    """Return the checks of a class by the names of its fields."""
    return {one.name: one.metadata["check"] for one in fields(group)}


LOCATION = choice(*LOCATIONS)


def _buffers(key: str, value: Any, _: str) -> dict[str, Any]:
    """Return `BuffersChoice` as a dict, and the locations of buffers under ``locations``."""
    known = checks(BuffersChoice)
    given: dict[str, Any] = {}
    locations = {}
    for name, item in MAPPING(key, value).items():
        if name in known:
            given[name] = item
        elif isinstance(item, str):
            locations[name.removesuffix(SUFFIX)] = LOCATION(f"{key}.{name}", item)
        else:
            raise FlowError(
                f"'{key}.{name}' is {item!r}; it must be the location of a buffer, or one of the "
                f"keys {', '.join(known)}{nearest(name, known)}"
            )
    return {**asdict(BuffersChoice(**given)), "locations": locations}


BUFFERS = Check(f"{', '.join(checks(BuffersChoice))}, or a location by buffer", _buffers)
TIME_LIMIT = Check(
    "seconds, or such as 90s, 30m, 3h, or null", lambda key, value, _: read_limit(key, value)
)


@frozen
class TaskChoice:
    """The group ``task``."""

    name: str = setting(
        "task.name", choice("run", "plan", "placement", "import", "doctor", "clear_cache")
    )


@frozen
class AlgorithmChoice:
    """The group ``algorithm``."""

    name: str = setting("algorithm.name", TEXT)
    linear_solver: str = setting("algorithm.linear_solver", choice(*LINEAR_SOLVERS))


@frozen
class BatchChoice:
    """The group ``batch``."""

    kind: str = setting("batch.kind", choice(*DESIGNS))
    values: dict[str, Any] = setting("batch.values", MAPPING)
    size: int | None = setting("batch.size", optional(whole(1)))
    seed: int = setting("batch.seed", whole(0))
    path: str | None = setting("batch.path", optional(TEXT))
    observed: Any = setting("batch.observed", OBSERVED)
    compartments: dict[str, Any] = setting("batch.compartments", MAPPING)
    covariates: str = setting("batch.covariates", choice(*CARRIES))
    sweep: list[dict[str, Any]] = setting("batch.sweep", AXES)
    order: str = setting("batch.order", choice(*ORDERS))


@frozen
class EngineChoice:
    """The group ``engine``."""

    kind: str = setting("engine.kind", registered(ENGINES))
    progress: bool = setting("engine.progress", FLAG)
    time_limit: float | None = setting("engine.time_limit", TIME_LIMIT)
    confirm_runs: int = setting("engine.confirm_runs", whole(1))
    confirm_bytes: int = setting("engine.confirm_bytes", whole(1))
    workers: int | None = setting("engine.workers", optional(whole(1)))
    scheduler: str | None = setting("engine.scheduler", optional(TEXT))
    cluster: str | None = setting("engine.cluster", optional(choice(*CLUSTERS)))
    options: dict[str, Any] = setting("engine.options", MAPPING)
    retries: int = setting("engine.retries", whole(0))


@frozen
class StorageChoice:
    """The group ``storage``."""

    folder: str = setting("storage.folder", TEXT)
    url: str | None = setting("storage.url", ADDRESS)
    client: str = setting("storage.client", registered(CLIENTS))
    options: dict[str, Any] = setting("storage.options", SECRET_OPTIONS)
    lease: float | None = setting("storage.lease", optional(number(above=0.0)))
    overwrite: bool = setting("storage.overwrite", FLAG)
    picture: bool = setting("storage.picture", FLAG)
    shard_runs: int | None = setting("storage.shard_runs", optional(whole(1)))


@frozen
class MainChoice:
    """The keys of ``conf/config.yaml`` itself, and the groups whose names are not known."""

    to: str | None = setting("to", optional(TEXT))
    study: str | None = setting("study", optional(TEXT))
    system: dict[str, Any] = setting("system", MAPPING)
    rescue: Any = setting("rescue", RESCUE)
    duration: float | None = setting("duration", optional(number(least=0.0)))
    t_start: float = setting("t_start", number())
    precision: str = setting("precision", choice(*PRECISIONS))
    buffers: dict[str, Any] = setting("buffers", BUFFERS)
    dry_run: bool = setting("dry_run", FLAG)
    confirm: bool = setting("confirm", FLAG)


#: The classes of the groups, in the order of ``conf/config.yaml``.
GROUPS = (
    TaskChoice, MainChoice, AlgorithmChoice, ControllerChoice, TargetChoice, BatchChoice,
    OutputChoice, EngineChoice, StorageChoice,
)  # fmt: skip
Schema = Mapping[str, "Check | Schema"]


def _schema() -> Schema:
    """Return the checks of all keys, nested as the config is."""
    schema: dict[str, Any] = {}
    for group in GROUPS:
        for one in fields(group):
            *path, name = one.metadata["key"].split(".")
            level = schema
            for part in path:
                level = level.setdefault(part, {})
            level[name] = one.metadata["check"]
    return schema


SCHEMA: Schema = _schema()


def check_config(given: Any, schema: Schema = SCHEMA, key: str = "") -> dict[str, Any]:
    """Return a composed config with every key known and every value checked.

    Parameters
    ----------
    given
        The config, or a group of it, as plain values.
    schema
        The checks of its keys.
    key
        Name of the group; empty for the whole config.

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
    values = {}
    for name, rule in schema.items():
        if name not in given:
            raise FlowError(f"the config has no key '{where}{name}'")
        if isinstance(rule, Mapping):
            values[name] = check_config(given[name], rule, where + name)
        else:
            values[name] = rule(where + name, given[name])
    return values


def refuse_targets(config: Any, key: str = "") -> None:
    """Refuse ``_target_``, which makes Hydra run code, and endless numbers, anywhere in a config.

    Raises
    ------
    FlowError
        Naming its key.
    """
    items = dict(config) if isinstance(config, Mapping) else {}
    if isinstance(config, list):
        items = dict(enumerate(config))
    for name, item in items.items():
        where = f"{key}.{name}" if key else str(name)
        if name == "_target_":
            raise FlowError(f"'{where}' is refused: a config holds values and never names code")
        if isinstance(item, int) and abs(item) >= 10**DIGITS:
            raise FlowError(f"{where} has more than {DIGITS} digits; use a smaller number")
        refuse_targets(item, where)


def given_keys(overrides: Sequence[str]) -> frozenset[str]:
    """Return the keys that a command line gives a value, including those inside mappings."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    keys = set()
    for override in overrides:
        key, _, text = override.lstrip("+").partition("=")
        if key.startswith("~"):
            continue
        keys.add(key)
        if text.lstrip().startswith("{"):
            inside = OverridesParser.create().parse_override(override).value()
            keys.update(f"{key}.{name}" for name in inside if isinstance(inside, Mapping))
    return frozenset(keys)


@frozen(eq=False)
class Settings:
    """A validated config.

    Attributes
    ----------
    values
        The value of every key of `SCHEMA`, checked.
    keys
        Keys that the command line gave a value.
    notes
        Notes on defaults and warnings, one sentence each.
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
            For the first mistake.
        """
        refuse_targets(container)
        settings = cls(check_config(container), given_keys(overrides))
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
        from cubie_flow.storage.folders import check_study_name
        from cubie_flow.study.attempts import read_rescue
        from cubie_flow.study.study import Study
        from cubie_flow.study.warnings import study_warnings

        v = self.values
        if system is None:
            system = self.system()
        keys = self.keys if v["duration"] is not None else self.keys - {"duration"}
        design, notes = batch_design(v["batch"], system, keys)
        self.notes.extend(notes)
        name = v["study"] or system.name
        check_study_name(name)
        study = Study(
            name=name,
            system=system,
            design=design,
            duration=v["duration"],
            t_start=v["t_start"],
            algorithm=v["algorithm"]["name"],
            linear_solver=v["algorithm"]["linear_solver"],
            rescue=read_rescue(v["rescue"]),
            precision=v["precision"],
            controller=ControllerChoice(**v["controller"]),
            output=self._output(system, design),
            target=TargetChoice(**v["target"]),
            locations=v["buffers"]["locations"],
            shard_runs=v["storage"]["shard_runs"],
            order=v["batch"]["order"],
        )
        self.notes.extend(study_warnings(study))
        return study

    def _output(self, system: OdeSystem, design: Design) -> OutputChoice:
        """Return the choice of outputs, with ``all`` expanded to the names of all states."""
        from cubie_flow.systems.sensitivities import with_sensitivities

        output = dict(self.values["output"])
        output["where"] = output.pop("trajectories")["where"]
        integrated = system.with_given(design.names)
        augmented = with_sensitivities(integrated, tuple(output["sensitivities"] or ()))
        states = [state.name for state in augmented.states]
        for key in ("variables", "summaries"):
            if output[key] == ["all"] and "all" not in states:
                output[key] = states
        return OutputChoice(**output)
