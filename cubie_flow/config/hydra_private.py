"""Private parts of Hydra 1.3 and OmegaConf 2.3, each behind one function or name."""

from __future__ import annotations

import copy
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any, NoReturn

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_omega_conf_dumper

from hydra._internal.callbacks import Callbacks  # isort: skip
from hydra._internal.config_loader_impl import ConfigLoaderImpl  # isort: skip
from hydra._internal.config_repository import CachingConfigRepository  # isort: skip

# Its public base class lacks the reading of a YAML file with its header.
from hydra._internal.core_plugins.file_config_source import FileConfigSource  # isort: skip
from hydra._internal.utils import get_args_parser  # isort: skip

__all__ = [
    "FileConfigSource",
    "apply_overrides",
    "caching_loader",
    "command_line_parser",
    "config_yaml",
    "new_context",
    "register_sweeper",
    "returned_value",
    "share_config_store",
]


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


def caching_loader(loader: ConfigLoaderImpl) -> ConfigLoaderImpl:
    """Return a copy of a config loader that reads every file once."""
    copied = copy.copy(loader)
    copied.repository = CachingConfigRepository(loader.repository)
    return copied


def apply_overrides(
    loader: ConfigLoaderImpl, overrides: list[Override], config: DictConfig
) -> None:
    """Change the values of a composed config in place.

    Parameters
    ----------
    loader
        The loader that composed the config.
    overrides
        Overrides of values, not of config groups.
    config
        The config to change.
    """
    loader._apply_overrides_to_config(overrides, config)


def new_context(loader: ConfigLoaderImpl) -> HydraContext:
    """Return the context of a command that Hydra did not start, which has no callbacks."""
    return HydraContext(config_loader=loader, callbacks=Callbacks())


def returned_value(job: JobReturn) -> Any:
    """Return what a job returned, or the exception that ended it, without raising that."""
    return job._return_value


def register_sweeper(sweeper: type[Sweeper], target: str) -> None:
    """Make a sweeper known to Hydra under the ``_target_`` of its config.

    Hydra instantiates only plugins of the package ``hydra_plugins``. The class keeps its own
    module, so that the processes of a launcher can import it.

    Parameters
    ----------
    sweeper
        The class.
    target
        A name in the package ``hydra_plugins``.
    """
    plugins = Plugins.instance()
    plugins.register(sweeper)
    plugins.class_name_to_class[target] = sweeper


def config_yaml(config: DictConfig) -> str:
    """Return a config as YAML, interpolations unresolved, exactly as `OmegaConf.to_yaml` does.

    The dumper of libyaml, where PyYAML has it, takes a tenth of the 20 to 40 ms.
    """
    dumper = get_omega_conf_dumper()
    if hasattr(yaml, "CDumper"):
        # The representers of OmegaConf quote texts that would be read back as another type.
        representers = {"yaml_representers": dumper.yaml_representers}
        dumper = type("Dumper", (yaml.CDumper,), representers)
    text = yaml.dump(
        OmegaConf.to_container(config),
        Dumper=dumper,
        default_flow_style=False,
        allow_unicode=True,
        sort_keys=False,
    )
    return str(text)
