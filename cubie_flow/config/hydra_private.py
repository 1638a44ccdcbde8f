"""Private parts of Hydra 1.3 that the configuration needs, each behind one name."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any, NoReturn

from hydra.core.config_store import ConfigStore

# Its public base class lacks the reading of a YAML file with its header.
from hydra._internal.core_plugins.file_config_source import FileConfigSource  # isort: skip
from hydra._internal.utils import get_args_parser  # isort: skip

__all__ = ["FileConfigSource", "command_line_parser", "share_config_store"]


def command_line_parser(refuse: Callable[[str], NoReturn] | None = None) -> ArgumentParser:
    """Return Hydra's parser of a command line.

    Parameters
    ----------
    refuse
        Called with the message of a mistake, instead of ending the process.
    """
    parser: Any = get_args_parser()
    if refuse is not None:
        parser.error = refuse
    return parser  # type: ignore[no-any-return]


def share_config_store() -> ConfigStore:
    """Return the one store of configs, which is from then on shared and not copied.

    Hydra copies it whenever it lists a group, 105 times for ``--help``: 0.2 s.
    """
    store = ConfigStore.instance()
    store.__deepcopy__ = lambda _: store
    return store
