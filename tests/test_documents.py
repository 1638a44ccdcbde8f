"""What the documents tell to type is there: commands are planned, keys are of the config."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from cubie_flow.cli.app import main
from cubie_flow.config import hydra_plugins
from cubie_flow.config.schema import SCHEMA, shipped

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("engines", "resume", "storage", "sweeps")
TEXTS = {page: (DOCS / f"{page}.md").read_text(encoding="utf-8") for page in PAGES}
#: What the text leaves open.
OPEN = re.compile(r"FOLDER|NAME|KEY|\.\.\.|\*|=$")
LAUNCHERS = {"joblib": "hydra_plugins.hydra_joblib_launcher"} | dict.fromkeys(
    ("submitit_local", "submitit_slurm"), "hydra_plugins.hydra_submitit_launcher"
)


def commands() -> Iterator[tuple[str, str]]:
    """Yield page and words of each command, and of what follows it in a text."""
    for page, text in TEXTS.items():
        told = re.findall(r"^ *python -m cubie_flow (.*)$", text.replace("\\\n", " "), re.MULTILINE)
        told += [inline for inline in spoken(text) if re.match(r"(resume|verify)=\w", inline)]
        yield from ((page, words) for words in dict.fromkeys(told))


def spoken(text: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"`([^`\n]+)`", text)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders of a study that can grow, and of a multirun."""
    folder = tmp_path_factory.mktemp("finished")
    small = ["storage.picture=false", "engine.progress=false", "batch=sobol"]
    assert main([*small, "batch.size=64", f"hydra.run.dir={folder}/one"]) == 0
    many = ["-m", "batch.size=8", "algorithm=tsit5,rk4", f"hydra.sweep.dir={folder}/many"]
    assert main([*small, *many]) == 0
    return {"one": folder / "one", "many": folder / "many"}


@pytest.mark.parametrize(("page", "told"), list(commands()))
def test_a_command_is_planned(
    page: str, told: str, finished: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file, text in re.findall(r"```yaml\n# (conf\S+)[^\n]*\n(.*?)```", TEXTS[page], re.DOTALL):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(text, encoding="utf-8")
    words = shlex.split(told, comments=True)
    for launcher in (word.partition("=")[2] for word in words if "hydra/launcher=" in word):
        pytest.importorskip(LAUNCHERS[launcher])
    done = finished["many" if page == "sweeps" else "one"]
    words = [re.sub(r"^(resume|verify)=.*", rf"\1={done}", word) for word in words]
    assert main([*words, *([] if words[0].startswith("verify=") else ["dry_run=true"])]) == 0
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("page", PAGES)
def test_keys_are_of_the_config(page: str) -> None:
    hydra_plugins.register()
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        config = compose("config", return_hydra_config=True)
        for told in spoken(TEXTS[page]):
            key, sign, _ = told.partition("=")
            if key.split(".")[0] not in {*SCHEMA, "hydra"} or OPEN.search(told):
                continue
            if sign and key not in ("storage.options.endpoint_url", "storage.options.endpoint"):
                compose("config", shlex.split(told))
            elif "." in key:
                assert OmegaConf.select(config, key, default=config) is not config, told
