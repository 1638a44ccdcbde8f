"""The jobs of a multirun: each a study of its own, written into a group of one store."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import yaml
from attrs import evolve, frozen
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_omega_conf_dumper
from omegaconf.errors import OmegaConfBaseException

from cubie_flow import credentials
from cubie_flow.config import overrides
from cubie_flow.config.schema import Settings
from cubie_flow.errors import FlowError
from cubie_flow.storage import index

if TYPE_CHECKING:
    from cubie_flow.engines import Engine
    from cubie_flow.study.plan_text import Amount
    from cubie_flow.storage.location import Location
    from cubie_flow.study.study import Study
    from cubie_flow.study.run import Progress, RunReport, Start
    from cubie_flow.systems import OdeSystem

log = logging.getLogger("cubie_flow")
#: Attribute of a multirun's root: the overrides of every job.
COMMON = "common"
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

    @cached_property
    def amount(self) -> Amount | None:
        """What it comes to, if it can run."""
        from cubie_flow.study.plan import amount_of

        return None if self.study is None else amount_of(self.study)

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
            read = evolve(job, settings=settings, study=self._study(settings))
            _ = read.amount  # what is wrong with its output is said of the job too
            return read
        except MISTAKES as error:
            return evolve(job, error=said(error))

    def _study(self, settings: Settings) -> Study:
        key = json.dumps(settings.values["system"], default=str)
        if key not in self._systems:
            self._systems[key] = settings.system()
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
        text = overrides.sentence(error, [])
    return credentials.redacted(text)


def size(jobs: Sequence[Job]) -> str:
    """Return how large a multirun is: ``3 kernels x 10 shards, 1,000,000 runs``."""
    amounts = [amount for job in jobs if (amount := job.amount) is not None]
    different = len({*kernels(jobs).values()})
    told = counted(different, "kernel")
    if different != len(jobs):
        told = f"{counted(len(jobs), 'job')} of {told}"
    shards = [amount.shards for amount in amounts]
    low, high = min(shards, default=0), max(shards, default=0)
    each = counted(high, "shard") if low == high else f"{low:,} to {high:,} shards"
    return f"{told} x {each}, {counted(sum(amount.runs for amount in amounts), 'run')}"


def kernels(jobs: Sequence[Job]) -> dict[int, int]:
    """Return the number of the kernel of each job that can run; several jobs may share one."""
    from cubie_flow.study.kernel import compiled_in

    found: list[Any] = []
    numbers = {}
    for job in jobs:
        if job.study is not None:
            compiled = (*compiled_in(job.study), dict(job.study.locations))
            if compiled not in found:
                found.append(compiled)
            numbers[job.number] = found.index(compiled)
    return numbers


def total(jobs: Sequence[Job]) -> Amount:
    """Return what the jobs that can run come to together."""
    from cubie_flow.study.plan_text import Amount

    return sum((job.amount for job in jobs if job.amount is not None), Amount())


def engine_settings(jobs: Sequence[Job]) -> Mapping[str, Any]:
    """Return the settings of ``engine`` that jobs share, some default if none of them can run."""
    given = [job.settings.values["engine"] for job in jobs if job.settings is not None]
    return given[0] if given else {"time_limit": None, "progress": False}


def counted(number: int, what: str) -> str:
    """Return a number of things in words."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def run_job(
    job: Job,
    root: Location,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    between_shards: Callable[[float], None] | None = None,
    engine: Callable[[Settings], Engine] | None = None,
    start: Start = "new",
) -> index.Row:
    """Run one job into its group and return what its row says then; it raises no mistake.

    Parameters
    ----------
    job
    root
        The store of the multirun.
    on_progress, between_shards, start
        See `cubie_flow.study.run.run_study`.

    Raises
    ------
    Stopped, KeyboardInterrupt
        What stops the whole multirun.
    """
    from cubie_flow.storage import leased, locked
    from cubie_flow.study.run import run_study
    from cubie_flow.placement.resolve import engine_of, resolve_placement

    if job.settings is None or job.study is None:
        return {"job_status": index.FAILED, "error": job.error}
    place = root.child(job.group)
    folder = None if place.folder is None else place.folder / place.group
    try:
        study = resolve_placement(job.settings, job.study) if start == "new" else job.study
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        # Jobs of a launcher may live longer than the process that waits for them.
        with (
            nullcontext() if folder is None else locked(folder),
            leased(place, job.settings.values["storage"]["lease"]) as lock,
        ):
            report = run_study(
                study,
                place,
                config_yaml=job.config,
                overrides=job.overrides,
                on_progress=on_progress,
                between_shards=lock.between(between_shards),
                engine=(engine or engine_of)(job.settings),
                start=start,
            )
    except MISTAKES as error:
        if not isinstance(error, FlowError):
            log.exception("job %d", job.number)
        if folder is not None:
            with suppress(OSError):
                folder.rmdir()  # of a job that never came to have a store
        return {"job_status": index.FAILED, "error": said(error)}
    return _row(report)


def _row(report: RunReport) -> index.Row:
    return {
        "job_status": index.SUCCESS,
        "error": "",
        "runs": report.runs,
        "runs_failed": report.failed,
        "mean_steps": report.mean_steps,
        "mean_rejected": report.mean_rejected,
        "runs_per_second": report.runs_per_second,
        "store_bytes": report.store_bytes,
        **{f"seconds_{phase}": report.seconds[phase] for phase in PHASES},
    }
