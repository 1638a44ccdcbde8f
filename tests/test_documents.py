"""The documentation is true: its commands run or are planned, its keys and its paths exist."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import cubie_flow
from cubie_flow.analysis.cli import main as results_command
from cubie_flow.cli.app import main
from cubie_flow.config import hydra_plugins
from cubie_flow.config.identity import RESUMABLE
from cubie_flow.config.schema import SCHEMA, shipped

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
#: Pages whose commands are planned, and pages whose commands and code run in their order.
PAGES = (
    "engines", "first-sweep", "methods", "models", "results", "resume", "storage", "sweeps",
    "troubleshooting",
)  # fmt: skip
WORKED = (*sorted(path.stem for path in (DOCS / "examples").glob("*.md")), "subjects")
TEXTS = {page: (DOCS / f"{page}.md").read_text(encoding="utf-8") for page in PAGES}
#: What the text leaves open.
OPEN = re.compile(r"FOLDER|NAME|KEY|=mine|\.\.\.|\*|=$")
LAUNCHERS = {"joblib": "hydra_plugins.hydra_joblib_launcher"} | dict.fromkeys(
    ("submitit_local", "submitit_slurm"), "hydra_plugins.hydra_submitit_launcher"
)
#: What pages need in addition to the package itself.
EXTRAS = {"systems-biology": "antimony", "gpu-engineering": "numba_cuda", "hpc": "distributed"}
#: A block of a page: its language, the file that it is (or nothing), its text.
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```", re.DOTALL | re.MULTILINE)
DECAY = "states: {x: 1.0}\nparameters: {k: 0.5}\nequations: {x: -k*x}\ntime: {duration: 3.0}\n"
SBML = """<sbml xmlns="http://www.sbml.org/sbml/level3/version1/core" level="3" version="1">
  <model><listOfParameters><parameter id="x" value="1" constant="false"/></listOfParameters>
    <listOfRules><rateRule variable="x"><math xmlns="http://www.w3.org/1998/Math/MathML">
      <apply><minus/><ci>x</ci></apply></math></rateRule></listOfRules></model>
</sbml>"""
#: Files of the reader that commands name.
FILES = {
    "decay.yaml": DECAY, "my_model.yaml": DECAY, "model.xml": SBML,
    "data.csv": "time,x\n0.5,0.82\n2.0,0.31\n",
}  # fmt: skip
#: Runs of a batch that are enough for a test.
ENOUGH = 64
QUIET = ["storage.picture=false", "engine.progress=false"]


def commands() -> Iterator[tuple[str, str]]:
    """Yield page and words of each command, and of each option that the text names."""
    for page, text in TEXTS.items():
        lines = text.replace("\\\n", " ")
        found = re.findall(r"^ *python -m cubie_flow (.*)$", lines, re.MULTILINE)
        found += [inline for inline in inline_code(text) if re.match(r"(resume|verify)=\w", inline)]
        yield from ((page, words) for words in dict.fromkeys(found))


def inline_code(text: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"`([^`\n]+)`", text)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders of a study that can grow, and of a multirun."""
    folder = tmp_path_factory.mktemp("finished")
    assert main([*QUIET, "batch=sobol", "batch.size=64", f"hydra.run.dir={folder}/one"]) == 0
    many = ["-m", "batch.size=8", "algorithm=tsit5,rk4", f"hydra.sweep.dir={folder}/many"]
    assert main([*QUIET, "batch=sobol", *many]) == 0
    return {"one": folder / "one", "many": folder / "many"}


@pytest.mark.parametrize(("page", "command"), list(commands()))
def test_a_command_is_planned(
    page: str,
    command: str,
    finished: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for file, text in re.findall(r"```yaml\n# (conf\S+)[^\n]*\n(.*?)```", TEXTS[page], re.DOTALL):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(text, encoding="utf-8")
    for file, text in FILES.items():
        (tmp_path / file).write_text(text, encoding="utf-8")
    if "model.xml" in command:
        pytest.importorskip("libsbml")
    words = shlex.split(command, comments=True)
    for launcher in (word.partition("=")[2] for word in words if "hydra/launcher=" in word):
        pytest.importorskip(LAUNCHERS[launcher])
    done = finished["many" if page == "sweeps" else "one"]
    words = [re.sub(r"^(resume|verify)=.*", rf"\1={done}", word) for word in words]
    whole = words and words[0].startswith(("verify=", "task=import"))
    plan = [] if whole else ["dry_run=true"]
    assert main([*words, *plan]) == 0
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("page", PAGES)
def test_keys_are_of_the_config(page: str) -> None:
    hydra_plugins.register()
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        config = compose("config", return_hydra_config=True)
        for code in inline_code(TEXTS[page]):
            key, sign, _ = code.partition("=")
            if key.split(".")[0] not in {*SCHEMA, "hydra"} or OPEN.search(code):
                continue
            if sign and key not in ("storage.options.endpoint_url", "storage.options.endpoint"):
                compose("config", shlex.split(code))
            elif "." in key:
                assert OmegaConf.select(config, key, default=config) is not config, code


def smaller(word: str) -> str:
    """Return an option with fewer runs, where it is a number of runs."""
    for pattern in (
        r"((?:batch\.size|storage\.shard_runs)=)(\d+)",
        r"(.*linspace: .+, )(\d+)(\].*)",
    ):
        if found := re.fullmatch(pattern, word):
            head, count, *tail = found.groups()
            return f"{head}{min(int(count), 4 * ENOUGH)}{''.join(tail)}"
    return word


def run_line(line: str) -> None:
    """Run one line of a shell block."""
    command, *words = shlex.split(line)
    if command == "cubie-results":
        assert results_command(words) == 0, line
        return
    assert [command, *words[:2]] == ["python", "-m", "cubie_flow"]
    options = [smaller(word) for word in words[2:]]
    asked = any(word.startswith(("resume=", "verify=")) for word in options)
    assert main([*options, *([] if asked else QUIET)]) == 0, line


@pytest.mark.parametrize("page", WORKED)
def test_a_worked_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page in EXTRAS:
        pytest.importorskip(EXTRAS[page])
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    (path,) = DOCS.rglob(f"{page}.md")
    markdown = path.read_text(encoding="utf-8")
    for language, file, text in BLOCK.findall(markdown):
        if file:
            Path(file).write_text(text, encoding="utf-8")
        elif language == "sh":
            for line in text.splitlines():
                run_line(line)
        elif language == "python":
            exec(compile(text, f"{page}.md", "exec"), names)


def named_paths() -> Iterator[tuple[str, str]]:
    """Yield page and path for every file or folder that a contributor's page names."""
    rooms = {path.name for path in ROOT.iterdir()} | {"cubie_flow"}
    for page in ("CONTRIBUTING.md", "docs/architecture.md", "docs/glossary.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for code in inline_code(text):
            if re.fullmatch(r"[\w./-]+", code) and code.split("/")[0] in rooms and "/" in code:
                yield page, code


@pytest.mark.parametrize(("page", "path"), list(named_paths()))
def test_a_named_path_exists(page: str, path: str) -> None:
    found = ROOT / path
    assert (found.parent if found.stem == "NAME" else found).exists()


def named_objects() -> Iterator[tuple[str, str]]:
    """Yield page and dotted name of what the pages take from the package."""
    for page in [ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")]:
        text = page.read_text(encoding="utf-8")
        text = re.sub(r"entry\s+point\s+`[^`]+`", "", text)
        names = re.findall(r"^::: (cubie_flow[\w.]*)$|`(cubie_flow\.[\w.]+)`", text, re.MULTILINE)
        for name in dict.fromkeys("".join(pair) for pair in names):
            yield str(page.relative_to(ROOT)), name


@pytest.mark.parametrize(("page", "name"), list(named_objects()))
def test_a_named_object_exists(page: str, name: str) -> None:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            owner: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            owner = getattr(owner, part)
        return
    pytest.fail(f"{name} is not in the package")


@pytest.mark.parametrize("name", cubie_flow.__all__)
def test_a_public_name_is_in_the_reference(name: str) -> None:
    text = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    assert re.search(rf"^::: cubie_flow\.(\w+\.)*{name}$", text, re.MULTILINE)


def addresses(navigation: object) -> Iterator[str]:
    """Yield the addresses of the pages in a navigation."""
    if isinstance(navigation, str):
        yield navigation
    elif isinstance(navigation, dict | list):
        for item in navigation.values() if isinstance(navigation, dict) else navigation:
            yield from addresses(item)


def test_every_page_is_in_the_navigation() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    outside = {"changelog.md", "contributing.md", "benchmarks.md"}
    assert set(addresses(settings["nav"])) == pages | outside


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve()
        generated = page.parent == DOCS and target in ("changelog.md", "contributing.md")
        assert "://" in target or generated or path.exists(), target


def figures() -> ModuleType:
    """Return the script that makes the pictures of the documentation."""
    spec = importlib.util.spec_from_file_location("figures", DOCS / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_script_makes_every_picture_of_a_page() -> None:
    pages = [ROOT / "README.md", *DOCS.rglob("*.md"), *(ROOT / "experiments").glob("*/README.md")]
    shown = set()
    for page in pages:
        for picture in re.findall(r"!\[[^\]]*\]\(([^)]+\.png)\)", page.read_text("utf-8")):
            shown.add((page.parent / picture).resolve().relative_to(ROOT).as_posix())
    script = figures()
    made = {*script.OVERVIEWS, *script.ANALYSES, *script.MEASURED}
    assert made == {name for name in shown if not name.startswith("docs/benchmarks/")}
    assert all((ROOT / path).is_file() for path in script.MEASURED.values())


def test_a_picture_is_what_its_command_draws(tmp_path: Path) -> None:
    # The other pictures are those of experiments, whose studies and analyses have their own tests.
    picture = tmp_path / "picture.png"
    figures().make("docs/lorenz_sweep.png", picture, ["batch.size=40", "engine.progress=false"])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_keys_that_a_resume_accepts_are_listed() -> None:
    (line,) = re.findall(
        r"\*\*How it is computed may change\*\*:(.*?)\. The", TEXTS["resume"], re.S
    )
    assert {key.removesuffix(".*") for key in re.findall(r"`([^`]+)`", line)} == set(RESUMABLE)
