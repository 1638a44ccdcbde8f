"""Small results that tests of the analysis read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from settling import study, written

from cubie_flow.systems import OdeSystem


@pytest.fixture(scope="session")
def kept(lorenz: OdeSystem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that no test changes."""
    return written(study(lorenz), tmp_path_factory.mktemp("kept") / "settling")


@pytest.fixture
def folder(kept: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(kept, tmp_path / "settling"))
