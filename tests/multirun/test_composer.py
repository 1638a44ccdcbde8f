"""Jobs are composed as Hydra composes them."""

from collections.abc import Iterator
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from cubie_flow.config import hydra_plugins
from cubie_flow.config.hydra_private import config_yaml
from cubie_flow.config.schema import shipped
from cubie_flow.multirun.composer import Composer

COMMON = ["duration=5", "batch.sweep=[{rho:{arange:[0,21,1]}}]"]
JOBS = [
    ["algorithm=rk4"],
    ["algorithm=rk4", "controller.rtol=1e-3"],
    ["algorithm=rk4", "+buffers.state=local", "precision=float64"],
    ["controller.rtol=1e-3", "system=van_der_pol", "system.parameters.mu=3"],
    ["experiment=stiff_suite"],
    ["study=1e5"],
    ["~batch.values"],
    [],
]


@pytest.fixture(scope="module")
def composing() -> Iterator[tuple[Any, Any, Composer]]:
    hydra_plugins.register()
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        master = hydra.compose_config(
            "config", COMMON, run_mode=RunMode.MULTIRUN, with_log_configuration=False
        )
        loader: Any = GlobalHydra.instance().config_loader()
        yield loader, master, Composer(loader, master, COMMON)


@pytest.mark.parametrize("job", JOBS, ids=[" ".join(job) for job in JOBS])
def test_a_job_is_what_hydra_composes(job: list[str], composing: tuple[Any, Any, Composer]) -> None:
    loader, master, composer = composing
    theirs = OmegaConf.to_container(loader.load_sweep_config(master, [*COMMON, *job]))
    assert isinstance(theirs, dict)
    del theirs["hydra"]
    for _ in range(2):  # one job leaves nothing behind in the next
        ours = composer.compose(job)
        assert OmegaConf.to_container(ours) == theirs
        assert list(ours) == list(theirs)
    assert config_yaml(ours) == OmegaConf.to_yaml(ours)


def test_a_wrong_override_is_hydras_error(composing: tuple[Any, Any, Composer]) -> None:
    with pytest.raises(HydraException):
        composing[2].compose(["controller.rtoll=1"])
