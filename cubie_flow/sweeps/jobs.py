"""The jobs of a multirun: each a study of its own, written into a group of one store."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import yaml
from attrs import evolve, frozen
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_omega_conf_dumper
from omegaconf.errors import OmegaConfBaseException

from cubie_flow import command_line, credentials
from cubie_flow.config import Settings
from cubie_flow.errors import FlowError
from cubie_flow.storage import index

if TYPE_CHECKING:
    from cubie_flow.storage.location import Location
    from cubie_flow.study.definition import Study
    from cubie_flow.study.running import Progress, RunReport
    from cubie_flow.systems import OdeSystem

log = logging.getLogger("cubie_flow")
#: How a run may end that has not failed.
WELL = ("success", "event_stop")
#: Phases of a job whose seconds its row tells.
PHASES = ("total", "build", "kernel", "write")
#: What ends a job and not the multirun.
MISTAKES = (FlowError, OmegaConfBaseException, OSError, ValueError, ArithmeticError, MemoryError)


@frozen(eq=False)
class Job:
    """One job, read and checked before anything starts.

    Attributes
    ----------
    number
        Its place in the multirun.
    own
        The overrides that tell it from the others.
    overrides
        All of them.
    config
        Its config as YAML, interpolations unresolved.
    settings, study
        What it says; None where that cannot be.
    error
        Why not.
    """

    number: int
    own: tuple[str, ...]
    overrides: tuple[str, ...]
    config: str
    settings: Settings | None = None
    study: Study | None = None
    error: str = ""

    @property
    def group(self) -> str:
        """Its group in the store."""
        return index.group_name(self.number)

    def row(self, swept: Sequence[str]) -> index.Row:
        """Return its row before it has run."""
        values = dict(override.lstrip("+").split("=", 1) for override in self.own)
        return {
            "overrides": " ".join(self.own),
            "group": self.group,
            "job_status": index.PENDING,
            "config": self.config,
            "runs": self.study.design.size if self.study else 0,
            **{key: values.get(key, "") for key in swept},
        }


class Reader:
    """Reads the configs of jobs; a model that several share is built once."""

    def __init__(self) -> None:
        self._systems: dict[str, OdeSystem] = {}

    def job(
        self, number: int, own: Sequence[str], overrides: Sequence[str], config: DictConfig
    ) -> Job:
        """Return a job; what is wrong with it is kept in it."""
        credentials.hide(config)
        job = Job(number, tuple(own), tuple(overrides), config_yaml(config))
        try:
            container = OmegaConf.to_container(config, resolve=True)
            settings = Settings.from_container(container, job.overrides)
            return evolve(job, settings=settings, study=self._study(settings))
        except MISTAKES as error:
            return evolve(job, error=said(error))

    def _study(self, settings: Settings) -> Study:
        from cubie_flow.defaults import load_system

        given = settings.values["system"]
        key = json.dumps(given, default=str)
        if key not in self._systems:
            self._systems[key] = load_system(given)
        return settings.study(self._systems[key])


def config_yaml(config: DictConfig) -> str:
    """Return a config as YAML, interpolations unresolved, as `OmegaConf.to_yaml` writes it.

    By libyaml where PyYAML has it: that one takes a tenth of the 20 to 40 ms.
    """
    dumper = _dumper()
    text = yaml.dump(
        OmegaConf.to_container(config),
        Dumper=dumper,
        default_flow_style=False,
        allow_unicode=True,
        sort_keys=False,
    )
    return str(text)


def _dumper() -> Any:
    slow = get_omega_conf_dumper()
    fast = getattr(yaml, "CDumper", None)
    if fast is None:
        return slow
    # The representers of OmegaConf quote what would be read back as another type.
    return type("Dumper", (fast,), {"yaml_representers": slow.yaml_representers})


def said(error: BaseException) -> str:
    """Return an error in one sentence."""
    text = str(error)
    if isinstance(error, ArithmeticError | MemoryError):
        text = f"{type(error).__name__}: {text}"
    elif isinstance(error, Exception) and not isinstance(error, FlowError):
        text = command_line.sentence(error, [])
    return credentials.redacted(text)


def size(jobs: Sequence[Job]) -> str:
    """Return how large a multirun is: ``3 kernels x 10 shards, 1,000,000 runs``."""
    from cubie_flow.study.kernel import compiled_in
    from cubie_flow.study.plan import shards_of

    good = [job.study for job in jobs if job.study is not None]
    kernels: list[Any] = []
    shards = [shards_of(study) for study in good]
    for study in good:
        compiled = (*compiled_in(study), dict(study.locations))
        if compiled not in kernels:
            kernels.append(compiled)
    runs = sum(study.design.size for study in good)
    counted = _count(len(kernels), "kernel")
    if len(kernels) != len(jobs):
        counted = f"{_count(len(jobs), 'job')} of {counted}"
    low, high = min(shards, default=0), max(shards, default=0)
    each = _count(high, "shard") if low == high else f"{low:,} to {high:,} shards"
    return f"{counted} x {each}, {_count(runs, 'run')}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def run_job(
    job: Job,
    root: Location,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    between_shards: Callable[[float], None] | None = None,
    resume: bool = False,
    recheck: bool = False,
) -> index.Row:
    """Run one job into its group and return what its row says then; it raises no mistake.

    Parameters
    ----------
    job
    root
        The store of the multirun.
    on_progress, between_shards, resume, recheck
        See `cubie_flow.solve.run_study`.

    Raises
    ------
    Stopped, KeyboardInterrupt
        What stops the whole multirun.
    """
    from cubie_flow.storage import locked
    from cubie_flow.study.running import run_study
    from cubie_flow.sweeps.decided import engine_of, placed

    if job.settings is None or job.study is None:
        return {"job_status": index.FAILED, "error": job.error}
    place = root.child(job.group)
    try:
        study = job.study if resume else placed(job.settings, job.study)
        folder = None if place.folder is None else place.folder / place.group
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        # Jobs of a launcher may live longer than the process that waits for them.
        with nullcontext() if folder is None else locked(folder):
            report = run_study(
                study,
                place,
                config_yaml=job.config,
                overrides=job.overrides,
                on_progress=on_progress,
                between_shards=between_shards,
                engine=engine_of(job.settings),
                resume=resume,
                recheck=recheck,
            )
    except MISTAKES as error:
        if not isinstance(error, FlowError):
            log.exception("job %d", job.number)
        return {"job_status": index.FAILED, "error": said(error)}
    return _row(report)


def is_begun(place: Location) -> bool:
    """Return whether a job's group can be resumed; what was left while it was made is deleted."""
    from cubie_flow.storage import ResultStore

    if not place.holds_something():
        return False
    try:
        ResultStore.open(place)
    except FlowError:
        place.delete()
        return False
    return True


def stored_row(place: Location, study: Study | None = None) -> index.Row | None:
    """Return the row of a job as its group tells it, or None unless the group is complete.

    Parameters
    ----------
    place
        The group.
    study
        What it must hold; one with more runs is not complete.
    """
    import numpy as np

    from cubie_flow.integrators.loop import STATUS
    from cubie_flow.storage import ResultStore

    try:
        store = ResultStore.open(place)
    except FlowError:
        return None
    attrs, runs = store.attrs, store.plan.runs
    if "completed" not in attrs or len(store.completed()) < len(store.plan.shards):
        return None
    if study is not None and study.design.size != runs:
        return None
    codes = store.status_counts()
    well = sum(codes.get(code, 0) for name, code in STATUS.items() if name in WELL)
    kernel = float(attrs["seconds_kernel"])
    return {
        "job_status": index.SUCCESS,
        "error": "",
        "runs": runs,
        "runs_failed": runs - well,
        "mean_steps": float(np.mean(store.array("steps")[:])),
        "mean_rejected": float(np.mean(store.array("rejected")[:])),
        "runs_per_second": runs / kernel if kernel else None,
        "store_bytes": place.size(),
        **{f"seconds_{phase}": float(attrs[f"seconds_{phase}"]) for phase in PHASES},
    }


def _row(report: RunReport) -> index.Row:
    well = sum(report.statuses.get(name, 0) for name in WELL)
    return {
        "job_status": index.SUCCESS,
        "error": "",
        "runs": report.runs,
        "runs_failed": report.runs - well,
        "mean_steps": report.mean_steps,
        "mean_rejected": report.mean_rejected,
        "runs_per_second": report.runs_per_second,
        "store_bytes": report.store_bytes,
        **{f"seconds_{phase}": report.seconds[phase] for phase in PHASES},
    }
