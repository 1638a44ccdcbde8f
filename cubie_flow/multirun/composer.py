"""The configs of many jobs.

Hydra composes a job in 0.1 to 0.3 s and spends most of it on reading and merging the files of the
chosen config groups. Jobs that choose the same files share that work here. Hydra's own function
then puts the values of each job into its config.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from cubie_flow.config.hydra_plugins import name_system
from cubie_flow.config.hydra_private import apply_overrides, caching_loader
from cubie_flow.credentials import as_given


class Composer:
    """Composes the jobs of a multirun.

    Parameters
    ----------
    loader
        Hydra's config loader.
    multirun
        The composed config of the multirun. Its ``hydra`` overrides apply to every job.
    common
        Overrides of every job.
    """

    def __init__(self, loader: Any, multirun: DictConfig, common: Sequence[str]) -> None:
        self._loader = caching_loader(loader)
        self._name = multirun.hydra.job.config_name
        self._common = [*as_given(multirun.hydra.overrides.hydra), *common]
        self._parser = OverridesParser.create()
        self._bases: dict[tuple[str, ...], DictConfig] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Return the config of a job, without its node ``hydra``.

        Parameters
        ----------
        overrides
            Overrides of this job, in addition to the common ones.

        Raises
        ------
        hydra.errors.HydraException
            If Hydra cannot compose the job.
        """
        files: list[str] = []
        values: list[Override] = []
        for override in self._parser.parse_overrides(list(overrides)):
            if self._loader.repository.group_exists(override.key_or_group):
                files.append(str(override.input_line))
            else:
                values.append(override)
        config = copy.deepcopy(self._base(tuple(files)))
        apply_overrides(self._loader, values, config)
        return config

    def _base(self, files: tuple[str, ...]) -> DictConfig:
        """Return the common part of jobs that choose the same files."""
        if files not in self._bases:
            config: Any = self._loader.load_configuration(
                self._name, [*self._common, *files], RunMode.RUN
            )
            name_system(config, str(config.hydra.runtime.choices["system"]))
            with open_dict(config):
                del config["hydra"]
            self._bases[files] = config
        return self._bases[files]
