"""Every file of ``conf/`` composes and passes the schema."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from cubie_flow.config import hydra_plugins
from cubie_flow.config.overrides import arguments
from cubie_flow.config.schema import SCHEMA, BuffersChoice, Settings, checks, shipped
from cubie_flow.errors import FlowError

CONF = shipped("conf")
OPTIONS = [
    f"{path.parent.relative_to(CONF)}={path.stem}" for path in sorted(CONF.rglob("*/*.yaml"))
]
STUDIES = sorted(path.parent.name for path in shipped("experiments").glob("*/experiment.yaml"))


@pytest.fixture(autouse=True)
def hydra_ready() -> Iterator[None]:
    hydra_plugins.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*overrides: str) -> Any:
    return OmegaConf.to_container(compose("config", list(overrides)), resolve=True)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_file_composes(option: str) -> None:
    settings = Settings.from_container(composed(option))
    group, name = option.split("=")
    chosen = settings.values.get(group, {})
    if group in ("algorithm", "task"):
        assert chosen["name"] == name
    elif group in ("controller", "target", "batch", "engine"):
        assert chosen["kind"] == name


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.startswith("system=")])
def test_every_system_makes_a_study(option: str) -> None:
    study = Settings.from_container(composed(option, "batch=sobol", "batch.size=8")).study()
    assert study.design.size == 8
    assert study.system.name == option.removeprefix("system=")


@pytest.mark.parametrize("name", STUDIES)
def test_every_experiment_composes(name: str) -> None:
    assert composed(f"experiment={name}")["study"] == name


@pytest.mark.parametrize("name", STUDIES)
def test_an_experiment_has_its_three_files(name: str) -> None:
    folder = shipped("experiments") / name
    assert {"README.md", "experiment.yaml", "analyse.py"} <= {p.name for p in folder.iterdir()}


def test_the_schema_and_the_main_config_have_the_same_keys() -> None:
    def keys(tree: Mapping[str, Any], schema: Mapping[str, Any], where: str = "") -> set[str]:
        found = set()
        for name, rule in schema.items():
            assert name in tree, f"the schema has {where}{name}, which is missing from conf/"
            found.add(f"{where}{name}")
            if isinstance(rule, Mapping):
                found |= keys(tree[name], rule, f"{where}{name}.")
                extra = sorted(set(tree[name]) - set(rule))
                assert not extra, f"conf/ has {where}{name}.{extra}, which the schema does not know"
        return found

    config = composed()
    keys(config, SCHEMA)
    extra = sorted(set(config) - set(SCHEMA))
    assert not extra, f"conf/ has {extra}, which the schema does not know"
    assert set(config["buffers"]) == set(checks(BuffersChoice))


def test_every_algorithm_has_a_file() -> None:
    from cubie_flow.integrators.tableaus import METHODS
    from cubie_flow.study.auto_method import AUTO

    assert {path.stem for path in (CONF / "algorithm").glob("*.yaml")} == {AUTO, *METHODS}


def test_another_system_does_not_inherit_the_default_study(tmp_path: Path) -> None:
    model = tmp_path / "decay.yaml"
    model.write_text(
        "states: {x: 1.0}\nparameters: {k: 0.5}\nequations: {x: -k * x}\ntime: {duration: 2.0}\n"
    )
    config = composed("system=file", f"system.file={model}", "+system.parameters.k=2.0")
    assert config["batch"]["values"] == {}
    settings = Settings.from_container(config)
    study = settings.study()
    assert study.system.name == "decay"
    assert study.system.parameters[0].value == 2.0
    # A system that suggests nothing is one run, and says what makes it more.
    assert (study.design.names, study.design.size) == ((), 1)
    assert (
        "'decay' suggests nothing to vary, so there is one run; batch.values=" in settings.notes[0]
    )
    asked = Settings.from_container({**config, "batch": {**config["batch"], "size": 9}})
    columns = asked.study().design.columns(0, 9)["k"]
    assert (columns.min(), columns.max()) == (1.6, 2.4)
    assert "varies every parameter by 20 %: k from 1.6 to 2.4" in asked.notes[0]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("precision=float31", ("precision", "float31", "float64", "did you mean 'float32'")),
        ("controller.rtol=-1", ("controller.rtol", "-1", "above 0")),
        ("+controller.rtoll=1", ("controller.rtoll", "did you mean 'rtol'")),
        ("batch.size=1.5", ("batch.size", "1.5", "whole number")),
        ("target.threads=0", ("target.threads", "0", "at least 1")),
        ("output.times=[1, a]", ("output.times[1]", "'a'")),
        ("engine.progress=3", ("engine.progress", "true or false")),
        ("engine.workers=0", ("engine.workers", "0", "at least 1")),
        ("+engine.retry=1", ("engine.retry", "did you mean 'retries'")),
        ("engine.cluster=slrm", ("engine.cluster", "slrm", "did you mean 'slurm'")),
        ("engine.scheduler=3", ("engine.scheduler", "3", "a text")),
        ("engine.options={_target_: os.system}", ("_target_", "refused")),
        ("target.device=[0,-1]", ("target.device[1]", "-1", "at least 0")),
        ("buffers.stage_state=sharde", ("buffers.stage_state", "did you mean 'shared'")),
        ("buffers.swep=[state]", ("buffers.swep", "did you mean 'sweep'")),
        ("batch.values.rho={_target_: os.system}", ("_target_", "refused")),
    ],
)
def test_a_mistake_is_one_sentence(override: str, words: tuple[str, ...]) -> None:
    with pytest.raises(FlowError) as caught:
        Settings.from_container(composed(override))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_quantity_that_the_model_lacks_is_named() -> None:
    with pytest.raises(FlowError, match=r"'rhoo'.*did you mean 'rho'"):
        Settings.from_container(composed("batch.values.rhoo=[1, 2]")).study()


def typed(words: list[str]) -> Settings:
    """Return the settings of a command line."""
    overrides = arguments(words)
    return Settings.from_container(composed(*overrides), overrides)


SIR = ["system=sir"]  # which suggests beta and gamma
FIXED = ["system.parameters.beta=0.4"]


@pytest.mark.parametrize(
    ("overrides", "names", "runs"),
    [
        ([*SIR, *FIXED], ["gamma"], 10_000),
        ([*SIR, "system.parameters.beta='0.4'"], ["gamma"], 10_000),
        ([*SIR, "system.parameters={beta: 0.4}"], ["gamma"], 10_000),
        ([*SIR, "system.parameters.beta.value=0.4"], ["gamma"], 10_000),
        ([*SIR, *FIXED, "batch=sobol", "batch.size=64"], ["gamma"], 64),
        ([*SIR, *FIXED, "batch.values.gamma=[1, 2]"], ["gamma"], 2),
        ([*SIR, *FIXED, "+batch.sweep=[{gamma: [1, 2, 3]}]"], ["gamma"], 3),
        ([*SIR, *FIXED, "+batch.sweep=[{gamma: null}]"], [], 1),
        ([*SIR, "batch.values.beta=null"], ["gamma"], 10_000),
        # Nothing that the system suggests is left: one run, unless more are asked for.
        (["system=bouncing_ball", "system.parameters.elasticity=0.8"], [], 1),
        (["system=van_der_pol", "system.parameters.mu=5"], [], 1),
        (["system=bouncing_ball", "system.parameters.elasticity=0.8", "batch.size=9"], ["g"], 9),
        (["system=van_der_pol", "system.parameters.mu=5", "batch=sobol"], ["x"], 10_000),
        # What the study varies is not made up for.
        (["system.parameters.rho=28"], [], 1),
        (["system.parameters.rho=28", "system.parameters.sigma=9"], [], 1),
        (["system.parameters.beta=2"], ["rho"], 100_000),
        (["batch.values={duration: [1, 2]}", "duration=null"], ["duration"], 2),
    ],
)
def test_what_the_command_line_sets_is_not_varied(
    overrides: list[str], names: list[str], runs: int
) -> None:
    design = typed(overrides).study().design
    assert sorted(design.names) == names
    assert design.size == runs


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            [*FIXED, "batch.values.beta=[1, 2]"],
            "'beta' is set by system.parameters.beta, but batch",
        ),
        (["system.parameters={beta: 1}", "batch.values={beta: [1, 2]}"], "leave one of them"),
        ([*FIXED, "+batch.sweep=[{beta: [1, 2]}]"], "but batch.sweep varies it"),
        (["duration=5", "batch.values.duration=[1, 2]"], "'duration' is set by duration, but"),
        (["system.parameters.rho=28", "batch.size=7"], "batch.size is 7, but nothing varies"),
        (["system.parameters.beta=null"], "beta is None, which is not a number"),
        (["system.parameters.beta=inf"], "beta is inf, which is not finite"),
        (["system.parameters.beta=true"], "beta is True, which is not a number"),
        (["system.parameters.beta=[1, 2]"], "beta: a list of values is only for"),
        (["batch.values.beta=[1, one]"], "is the text 'one', not a number"),
        (["batch.values.beta=nan"], "must be finite, not nan"),
        (["batch.values.beta='inf'"], "must be finite, not inf"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(FlowError, match=words) as caught:
        typed(overrides).study()
    assert "\n" not in str(caught.value)


def test_text_that_writes_a_number_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BETA", "1.5")
    overrides = ["batch.values.beta=['1', 1e-3, ${oc.env:BETA}]"]
    design = typed(overrides).study().design
    assert design.columns(0, 3)["beta"].tolist() == [1.0, 1e-3, 1.5]


def test_a_column_of_a_table_is_not_set_besides(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("beta,sigma\n1,2\n3,4\n")
    overrides = ["batch=table", f"batch.path={tmp_path / 'runs.csv'}", *FIXED]
    with pytest.raises(FlowError, match=r"is set by system\.parameters\.beta, but a column"):
        typed(overrides).study()


@pytest.mark.parametrize(
    ("overrides", "names", "runs"),
    [
        (["batch.size=1000"], ["rho"], 1000),
        (["batch=sobol", "batch.size=1000"], ["rho"], 1000),
        (["batch=sobol"], ["rho"], 100_000),
        (["batch=latin_hypercube", "batch.size=10"], ["rho"], 10),
        (["batch.size=1000", "batch.values.sigma=[8, 10]"], ["rho", "sigma"], 1000),
        (["batch.values.rho=null", "batch.values.sigma=[8, 10]"], ["sigma"], 2),
        (["system=sir", "batch.size=100"], ["beta", "gamma"], 100),
        (["system=pleiades", "batch=zip", "batch.size=7"], ["x_0"], 7),
        (["system=sir", "system.states.S=500", "system.suggested=null"], [], 1),
        (["batch=single"], [], 1),
        (["batch=sobol", "batch.size=8", "batch.values.rho={linspace: [40, 0, 50]}"], ["rho"], 8),
        (["batch=sobol", "batch.values.rho=null", "batch.values.beta={arange: [5, 0, -0.1]}"],
         ["beta"], 50),
        (["batch=sobol", "batch.values.sigma={linspace: [5, 5, 3]}"], ["rho", "sigma"], 300_000),
        (["batch.size=50", "batch.values.beta={arange: [0, 1, 0.1]}"], ["rho", "beta"], 50),
    ],
)  # fmt: skip
def test_ranges_suit_the_kind_of_batch(overrides: list[str], names: list[str], runs: int) -> None:
    design = Settings.from_container(composed(*overrides), overrides).study().design
    assert (list(design.names), design.size) == (names, runs)


@pytest.mark.parametrize(
    ("overrides", "note"),
    [
        ([*SIR], "batch.size is not given, so there are 10,000 runs, 100 x 100 points"),
        ([*SIR, "batch.size=1000"], "that a grid may make: 961 runs, 31 x 31 points"),
        (["batch.size=7", "batch.values.sigma=[8, 10]"],
         "batch.size=7 is the most that a grid may make: 6 runs, 2 x 3 points (instead of 100,000"),
        (["batch=sobol"], "batch.size is not given, so there are 100,000 runs: the points of rho"),
        (["batch=sobol", "batch.values.beta={linspace: [1, 2, 3]}"],
         "300,000 runs: the points of rho, beta, 100,000 x 3"),
    ],
)  # fmt: skip
def test_how_the_number_of_runs_came_about_is_said(overrides: list[str], note: str) -> None:
    settings = typed(overrides)
    settings.study()
    assert any(note in one for one in settings.notes)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([*SIR, "batch.size=3"], "batch.size=3 is too few for a grid over beta, gamma: two points"),
        (["batch.size=2", "batch.values.sigma=[7, 8, 9]"], "with 3 combinations of the others"),
        (["batch=sobol", "batch.values.rho={logspace: [0, 5, 10]}"], "rho.logspace needs positive"),
        (["+batch.sweep=[{rho: [1, x]}]"], "batch.sweep[0].rho[1] is the text 'x', not a number"),
        (["+batch.sweep=[{rho: {uniform: [1, 1]}}]"], "uniform needs lower < upper"),
        (["+batch.sweep=[{rho: [1, 2], sigma: [1]}]"], "sweep[0] needs quantities with equal"),
    ],
)  # fmt: skip
def test_a_number_of_runs_that_cannot_be_met_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(FlowError) as caught:
        typed(overrides).study()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_many_quantities_never_make_a_power_of_two(tmp_path: Path) -> None:
    names = [f"k{i}" for i in range(20)]
    values = ", ".join(f"{name}: 1.0" for name in names)
    model = tmp_path / "many.yaml"
    model.write_text(
        f"states: {{x: 1.0}}\nparameters: {{{values}}}\n"
        f"equations: {{x: -({'+'.join(names)}) * x}}\n"
        "time: {duration: 2.0}\n"
    )
    words = [f"system.file={model}"]
    assert typed(words).study().design.size == 1
    assert typed([*words, "batch=sobol", "batch.size=100"]).study().design.size == 100
    with pytest.raises(FlowError, match=r"k7, \.\.\.: two points of each are 1,048,576 runs"):
        typed([*words, "batch.size=100"]).study()


@pytest.mark.parametrize("size_first", [True, False])
def test_a_size_that_is_given_holds_wherever_it_stands(size_first: bool) -> None:
    words = ["batch.size=8", "batch.values={rho: {uniform: [1, 2]}}"]
    written = arguments(words if size_first else words[::-1])
    assert "batch.size=null" not in written
    assert "batch.size=8" in written
    assert "batch.size=null" in arguments(words[1:])
