"""Every config key is described, and its allowed values are those of the code that uses them."""

from typing import Any

import attrs
import pytest

from cubie_flow import allowed_values
from cubie_flow.batches import make_design
from cubie_flow.config.reference import KeyReference, reference
from cubie_flow.config.schema import shipped
from cubie_flow.engines import make_engine
from cubie_flow.integrators.controllers import MEMORY
from cubie_flow.kernels.kernel import BatchSolverConfig
from cubie_flow.study.attempts import Attempt
from cubie_flow.study.options import ControllerChoice, OutputChoice, TargetChoice

KEYS = {entry.key: entry for entry in reference()}
CONF = shipped("conf")


@pytest.mark.parametrize("entry", KEYS.values(), ids=KEYS)
def test_every_key_is_described(entry: KeyReference) -> None:
    assert entry.description, f"a comment in conf/ should say what {entry.key} is"
    assert entry.allowed
    if entry.words and entry.default is not None:
        assert entry.default in entry.words


@pytest.mark.parametrize("key", [key for key in KEYS if key.endswith((".kind", "task.name"))])
def test_every_option_of_a_group_is_a_file_with_a_description(key: str) -> None:
    files = {path.stem for path in (CONF / key.partition(".")[0]).glob("*.yaml")}
    assert files == set(KEYS[key].words)
    assert all(KEYS[key].words.values())


@pytest.mark.parametrize("choice", [ControllerChoice, OutputChoice, TargetChoice])
def test_defaults_of_python_are_those_of_conf(choice: type) -> None:
    for one in attrs.fields(choice):
        assert getattr(choice(), one.name) == KEYS[one.metadata["key"]].default, one.name


def test_every_kind_of_batch_is_known_to_the_designs() -> None:
    with pytest.raises(ValueError, match=r"batch\.kind") as caught:
        make_design("none", {})
    for kind in KEYS["batch.kind"].words:
        assert kind in str(caught.value)


def test_every_controller_is_known_to_the_integrators() -> None:
    assert tuple(KEYS["controller.kind"].words) == ("default", *MEMORY)


@pytest.mark.parametrize("word", KEYS["algorithm.linear_solver"].words)
def test_every_linear_solver_is_known_to_the_steps(word: str) -> None:
    assert Attempt(linear_solver=word).linear_solver == word


@pytest.mark.parametrize(
    ("key", "field"),
    [("target.kind", "target"), ("target.math", "math"), ("precision", "precision")],
)
def test_every_word_is_known_to_the_kernel(key: str, field: str) -> None:
    for word in KEYS[key].words:
        settings: dict[str, Any] = {field: word}
        assert getattr(BatchSolverConfig(**settings), field) == word


def test_every_engine_is_made() -> None:
    for kind in KEYS["engine.kind"].words:
        assert make_engine(kind)


def test_every_tuple_of_allowed_values_is_that_of_a_key() -> None:
    words = [tuple(entry.words) for entry in KEYS.values()]
    for name, values in vars(allowed_values).items():
        if name.isupper():
            assert values in words, f"no config key has the values of {name}"
