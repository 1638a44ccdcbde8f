"""The study of a config, with what it leaves open decided, and who solves it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cubie_flow.config.schema import Settings
    from cubie_flow.engines import Engine
    from cubie_flow.study.study import Study


def resolve_algorithm(settings: Settings, study: Study | None = None) -> Study:
    """Return the study, its method chosen where ``algorithm=auto`` asks for it.

    Parameters
    ----------
    settings
        Its notes tell what was chosen.
    study
        That of `settings`, where it is made already.
    """
    from cubie_flow.study.auto_method import resolve_algorithm as decide

    chosen, reason = decide(settings.study() if study is None else study)
    if reason:
        settings.notes.append(reason)
    return chosen


def resolve_placement(settings: Settings, study: Study | None = None) -> Study:
    """Return the study, with buffers placed where ``buffers=auto`` asks for it."""
    study = resolve_algorithm(settings, study)
    if settings.values["buffers"]["auto"]:
        from cubie_flow.placement.study import choose_placement

        study, note = choose_placement(study)
        settings.notes.append(note)
    return study


def engine_of(settings: Settings) -> Engine:
    """Return who solves the shards."""
    from cubie_flow.engines import make_engine

    keys = ("kind", "workers", "scheduler", "cluster", "options", "retries")
    return make_engine(**{key: settings.values["engine"][key] for key in keys})
