"""Where Hydra finds configuration in addition to the files of ``conf/``."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from cubie_flow.config.hydra_private import FileConfigSource, share_config_store
from cubie_flow.config.schema import shipped

GROUP = "experiment"


class ExperimentSource(FileConfigSource):  # type: ignore[misc]
    """Reads ``<folder>/<name>/experiment.yaml`` as the option ``<name>`` of ``experiment``.

    ``studies://shipped`` is the folder that comes with the package; any other is given as
    ``studies:///path/to/folder`` in ``hydra.searchpath``.
    """

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        folder = path.removeprefix("studies://")
        self.path: str = str(shipped("experiments")) if folder == "shipped" else folder

    @staticmethod
    def scheme() -> str:
        """Return the prefix of the paths that this class reads."""
        return "studies"

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the config of an experiment."""
        return super().load_config(self._file(config_path))

    def available(self) -> bool:
        """Return whether the folder exists."""
        return Path(self.path).is_dir()

    def is_group(self, config_path: str) -> bool:
        """Return whether a path is the group ``experiment``."""
        return config_path.strip("/") in ("", GROUP)

    def is_config(self, config_path: str) -> bool:
        """Return whether a path is an experiment."""
        name = config_path.removesuffix(".yaml")
        return name.startswith(f"{GROUP}/") and super().is_config(self._file(name))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return the group, or its experiments."""
        if config_path.strip("/") == GROUP:
            names = sorted(p.parent.name for p in Path(self.path).glob("*/experiment.yaml"))
            return [] if results_filter == ObjectType.GROUP else names
        return [] if results_filter == ObjectType.CONFIG else [GROUP]

    @staticmethod
    def _file(config_path: str) -> str:
        name = config_path.removesuffix(".yaml").removeprefix(f"{GROUP}/")
        return f"{name}/experiment.yaml"


class ExperimentSearchPath(SearchPathPlugin):  # type: ignore[misc]
    """Adds the experiments that come with the package to every search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add them last, so that a user's own experiments of the same name come first."""
        search_path.append("cubie_flow", "studies://shipped")


def register() -> None:
    """Register the experiments, the open keys and the folder of a multirun with Hydra."""
    Plugins.instance().register(ExperimentSource)
    Plugins.instance().register(ExperimentSearchPath)
    # Hydra refuses keys that no file has. It must accept names that a model or a user gives.
    open_keys = OmegaConf.create(
        {
            "system": {"name": None},
            "buffers": {},
            "batch": {"values": {}, "compartments": {}},
            "output": {"error": {}},
            "engine": {"options": {}},
        }
    )
    nodes = (open_keys.system, open_keys.buffers, open_keys.batch["values"])
    subjects = (open_keys.batch.compartments, open_keys.output.error)
    for node in (*nodes, *subjects, open_keys.engine.options):
        OmegaConf.set_struct(node, False)
    store = share_config_store()
    store.store(name="open_keys", node=open_keys)
    store.store(group="system", name="file", node={"file": "???", "name": None})
    OmegaConf.register_new_resolver("flow_folder", _folder, use_cache=True, replace=True)


def experiments(sources: Iterable[Any]) -> list[str]:
    """Return the names of all experiments.

    Parameters
    ----------
    sources
        ``hydra.runtime.config_sources``: the path and schema of each place of configs, among them
        those of ``--config-dir`` and ``hydra.searchpath``.
    """
    names: set[str] = set()
    for source in sources:
        folder = Path(source.path)
        if source.schema == ExperimentSource.scheme():
            names.update(file.parent.name for file in folder.glob("*/experiment.yaml"))
        elif source.schema == "file":
            names.update(file.stem for file in (folder / GROUP).glob("*.yaml"))
    return sorted(names)


def name_system(config: DictConfig, chosen: str) -> None:
    """Name the chosen model after its file, if it has no name of its own."""
    system = config.get("system")
    if isinstance(system, DictConfig) and not system.get("name") and "file" not in system:
        OmegaConf.update(config, "system.name", chosen.rpartition("/")[2], force_add=True)


def _folder(root: str, study: str | None, system: str | None) -> str:
    """Return the new folder of a multirun, created when Hydra first asks for it."""
    from cubie_flow.storage.folders import new_run_folder

    return str(new_run_folder(root, study or system or "multirun", datetime.now()))
