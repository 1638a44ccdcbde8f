"""The study of a config with its automatic choices resolved, and the engine that solves it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cubie_flow.config.schema import Settings
    from cubie_flow.engines import Engine
    from cubie_flow.study.study import Study


def resolve_algorithm(settings: Settings, study: Study | None = None) -> Study:
    """Return the study with its method chosen if ``algorithm=auto`` requests it.

    Parameters
    ----------
    settings
        A note on the choice is added to it.
    study
        The study of `settings`, if it exists already.
    """
    from cubie_flow.study.auto_method import resolve_algorithm as choose_method

    chosen, reason = choose_method(settings.study() if study is None else study)
    if reason:
        settings.notes.append(reason)
    return chosen


def resolve_placement(settings: Settings, study: Study | None = None) -> Study:
    """Return the study with its buffers placed if ``buffers=auto`` requests it."""
    study = resolve_algorithm(settings, study)
    if settings.values["buffers"]["auto"]:
        from cubie_flow.placement.study import choose_placement

        study, note = choose_placement(study)
        settings.notes.append(note)
    return study


def engine_of(settings: Settings) -> Engine:
    """Return the engine that solves the shards."""
    from cubie_flow.engines import make_engine

    keys = ("kind", "workers", "scheduler", "cluster", "options", "retries")
    return make_engine(**{key: settings.values["engine"][key] for key in keys})
