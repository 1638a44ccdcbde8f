"""The factory: one way to change settings, all or nothing, and builds that last."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
import weakref
from enum import Enum
from pathlib import Path

import attrs
import numpy as np
import pytest
from attrs import field, frozen, validators

from cubie_flow.errors import FlowError
from cubie_flow.memory import CUDAFactory, buffer_registry
from cubie_flow.memory.hashing import stable_hash


def whole(value) -> int:
    return int(value)


@frozen
class SolverSettings:
    krylov: int = 2
    precision: type = np.float64


class Solver(CUDAFactory[SolverSettings]):
    def register_buffers(self):
        size = self.settings.krylov
        buffer_registry.register("basis", self, size, "local", self.settings.precision)

    def build(self):
        return ("solver", self.settings)


@frozen
class StepSettings:
    n: int = field(default=3, converter=whole, validator=validators.ge(1))
    stages: int = field(default=2, converter=whole, validator=validators.in_((1, 2, 3, 4)))
    precision: type = np.float64
    tolerance: float = field(default=1e-6, metadata={"runtime": True})
    note: str = field(default="", metadata={"hash": False})


class ExplicitStep(CUDAFactory[StepSettings]):
    def register_buffers(self):
        size = self.settings.n * self.settings.stages
        buffer_registry.register("stage_increments", self, size, "local", self.settings.precision)
        if self.settings.stages > 2:
            buffer_registry.register("extra", self, 1, "local", self.settings.precision)

    def build(self):
        return ("step", self.settings, tuple(c.product for c in self.children.values()))


class ImplicitStep(ExplicitStep):
    def arrange_children(self):
        if "solver" not in self.children:
            self.adopt("solver", Solver(SolverSettings(precision=self.settings.precision)))

    def register_buffers(self):
        super().register_buffers()
        buffer_registry.register("jacobian", self, self.settings.n**2, "local", np.float64)


STEPS = {"explicit": ExplicitStep, "implicit": ImplicitStep}


@frozen
class LoopSettings:
    algorithm: str = field(default="explicit", validator=validators.in_(tuple(STEPS)))
    n: int = field(default=3, converter=whole)
    precision: type = np.float64
    low: int = 0
    high: int = 10

    def __attrs_post_init__(self):
        if self.low > self.high:
            raise ValueError("low is above high")


class Controller(CUDAFactory[SolverSettings]):
    def register_buffers(self):
        buffer_registry.register("gains", self, 2, "local", np.float64, persistent=True)

    def build(self):
        return "controller"


class Loop(CUDAFactory[LoopSettings]):
    def __init__(self, settings):
        self.builds = self.registrations = 0
        super().__init__(settings)

    def arrange_children(self):
        wanted = STEPS[self.settings.algorithm]
        if type(self.children.get("step")) is not wanted:
            self.adopt("step", wanted(StepSettings(self.settings.n)))
        if "controller" not in self.children:
            self.adopt("controller", Controller(SolverSettings()))

    def register_buffers(self):
        self.registrations += 1
        # A parent's sizes that follow its children's settings.
        stages = self.children["step"].settings.stages
        spare = self.children["controller"].settings.krylov
        buffer_registry.register("state", self, self.settings.n, "local", self.settings.precision)
        buffer_registry.register("weights", self, stages, "local", np.float64)
        buffer_registry.register("spare", self, spare, "local", np.float64)

    def build(self):
        self.builds += 1
        return [child.product for child in self.children.values()]


@pytest.fixture
def loop() -> Loop:
    return Loop(LoopSettings())


def sizes(owner) -> dict[str, int]:
    return {e.name: e.elements for e in buffer_registry.layout(owner).entries}


def locations(owner) -> dict[str, str]:
    return {e.name: e.location for e in buffer_registry.layout(owner).entries}


def state(owner):
    return (
        owner.config_hash,
        owner.settings,
        [(name, id(child), state(child)) for name, child in owner.children.items()],
        buffer_registry.layout(owner),
    )


# ------------------------------------------------------------------ settings


def test_update_is_the_only_way_to_change_settings(loop):
    with pytest.raises(AttributeError):
        loop.settings = LoopSettings(n=9)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        loop.settings.n = 9
    with pytest.raises(TypeError):
        loop.children["step"] = None
    assert loop.update(n=9) == {"n"}
    assert loop.settings.n == loop.children["step"].settings.n == 9


def test_settings_must_be_frozen_attrs():
    @attrs.define
    class Loose:
        n: int = 1

    with pytest.raises(FlowError, match="Loose are not frozen"):
        Solver(Loose())
    with pytest.raises(FlowError, match="frozen attrs"):
        Solver({"n": 1})


def test_values_pass_the_converters(loop):
    loop.update(n="7")
    assert loop.settings.n == 7
    assert sizes(loop)["state"] == 7


@pytest.mark.parametrize(
    ("updates", "message"),
    [
        ({"n": "seven"}, "n='seven' is refused"),
        ({"stages": 9}, "stages=9 is refused"),
        ({"algorithm": "magic", "n": 4}, "algorithm='magic' is refused"),
        ({"low": 20, "high": 15}, "low=20 is refused: low is above high"),
        ({"low": 9, "high": 8}, "low=9, high=8 are refused together: low is above high"),
    ],
)
def test_a_refused_value_is_one_sentence_naming_the_key(loop, updates, message):
    before = state(loop)
    with pytest.raises(FlowError, match=message):
        loop.update(**updates)
    assert state(loop) == before


def test_valid_only_together_is_accepted_together(loop):
    loop.update(low=20, high=30)
    assert (loop.settings.low, loop.settings.high) == (20, 30)


def test_unknown_keys_are_refused_naming_the_nearest_known_key(loop):
    with pytest.raises(FlowError, match=r"algorithem='explicit'.*did you mean 'algorithm'"):
        loop.update(algorithem="explicit")
    with pytest.raises(FlowError, match="did you mean 'stage_increments_location'"):
        loop.update(stage_increment_location="shared")
    with pytest.raises(FlowError, match="known: algorithm, n, precision"):
        loop.update(zzzzzz=1)


@pytest.mark.parametrize(
    "refusal",
    [
        {"nobody_knows": 1},
        {"stages": 99},
        {"gains_location": "globl"},
        {"jacobian_location": "nowhere"},
    ],
)
def test_a_refused_update_changes_nothing_anywhere_in_the_tree(loop, refusal):
    loop.update(stage_increments_location="shared")
    product, before = loop.product, state(loop)
    with pytest.raises(FlowError):
        loop.update(n=8, algorithm="implicit", state_location="shared", **refusal)
    assert state(loop) == before
    assert loop.product is product
    loop.update(stages=3)
    assert locations(loop)["state"] == "local"
    assert locations(loop)["stage_increments"] == "shared"


def test_a_buffer_that_cannot_be_registered_refuses_the_update(loop):
    loop.update(algorithm="implicit")
    before = state(loop)
    with pytest.raises(FlowError, match="size=-4 of buffer 'basis'"):
        loop.update(n=8, krylov=-4)
    assert state(loop) == before


def test_a_refused_location_is_not_remembered_for_later_children(loop):
    with pytest.raises(FlowError):
        loop.update(stage_increments_location="shared", nobody_knows=1)
    loop.adopt("step", ExplicitStep(StepSettings(5)))
    assert locations(loop)["stage_increments"] == "local"


class Mirror(CUDAFactory[SolverSettings]):
    """A parent whose buffer is as large as its first child's shared memory, at most 64 bytes."""

    def register_buffers(self):
        for child in self.children.values():
            size = buffer_registry.shared_buffer_bytes(child)
            buffer_registry.register("mirror", self, size, "local", np.int8)
            if size > 64:
                raise FlowError("too much to mirror")

    def build(self):
        return object()


def test_a_parents_size_follows_where_its_childs_buffers_are():
    top, middle = Mirror(SolverSettings()), Mirror(SolverSettings())
    middle.adopt("step", ExplicitStep(StepSettings()))
    top.adopt("middle", middle)
    assert sizes(middle) == {"mirror": 0, "stage_increments": 6}
    middle.update(stage_increments_location="shared")
    assert buffer_registry.layout(middle).find(middle, "mirror").bytes == 48
    assert buffer_registry.layout(top).find(top, "mirror").bytes == 48


def test_a_child_cannot_change_what_its_parent_refuses():
    parent, step = Mirror(SolverSettings()), ExplicitStep(StepSettings())
    parent.adopt("step", step)
    step.update(stage_increments_location="shared")
    before, product = state(parent), parent.product
    with pytest.raises(FlowError, match="too much to mirror"):
        step.update(stages=4)
    assert state(parent) == before
    assert step.settings.stages == 2
    assert parent.product is product


# ------------------------------------------------------------------ products


def test_an_update_that_changes_nothing_keeps_the_very_same_product(loop):
    product = loop.product
    loop.update(n=3, precision=np.float64, stages="2", stage_increments_location="local")
    loop.update()
    assert loop.product is product
    assert loop.builds == 1


@pytest.mark.parametrize(
    "change",
    [
        {"n": 4},
        {"stages": 4},
        {"low": 1},
        {"precision": np.float32},
        {"algorithm": "implicit"},
        {"stage_increments_location": "shared"},
        {"gains_location": "shared"},
        {"state_location": "register"},
    ],
)
def test_a_true_compile_time_change_anywhere_builds_anew(loop, change):
    product, before = loop.product, loop.config_hash
    loop.update(**change)
    assert loop.config_hash != before
    assert loop.product is not product
    assert loop.product is loop.product
    assert loop.builds == 2


def test_run_time_and_unhashed_settings_keep_the_product(loop):
    product, before = loop.product, loop.config_hash
    assert loop.update(tolerance=1e-9, note="quick") == {"tolerance", "note"}
    assert loop.children["step"].settings.tolerance == 1e-9
    assert loop.config_hash == before
    assert loop.product is product


def test_a_change_through_the_child_itself_reaches_the_parent(loop):
    product = loop.product
    loop.children["step"].update(stages=4)
    assert sizes(loop)["weights"] == 4
    assert loop.product is not product


def test_there_and_back_is_no_change(loop):
    product = loop.product
    loop.update(stage_increments_location="shared", n=5)
    loop.update(stage_increments_location="local", n=3)
    assert loop.product is product


def test_a_failed_build_is_tried_again():
    class Fragile(Solver):
        fail = True

        def build(self):
            if self.fail:
                raise RuntimeError("no compiler")
            return object()

    fragile = Fragile(SolverSettings())
    with pytest.raises(RuntimeError):
        _ = fragile.product
    fragile.fail = False
    assert fragile.product is fragile.product


# ------------------------------------------------------------------ buffers and children


def test_sizes_always_follow_settings(loop):
    loop.update(n=5, stages=4)
    assert sizes(loop) == {
        "state": 5,
        "weights": 4,
        "spare": 2,
        "stage_increments": 20,
        "extra": 1,
        "gains": 2,
    }
    loop.update(stages=1)
    assert "extra" not in sizes(loop)
    assert sizes(loop)["weights"] == 1


def test_an_algorithm_swap_keeps_survivors_and_leaves_nothing_stale(loop):
    loop.update(gains_location="shared", state_location="shared")
    controller = loop.children["controller"]
    loop.update(algorithm="implicit")
    assert loop.children["controller"] is controller
    assert {"gains", "state", "jacobian", "basis"} <= set(sizes(loop))
    assert locations(loop)["gains"] == locations(loop)["state"] == "shared"
    loop.update(algorithm="explicit")
    assert "jacobian" not in sizes(loop)
    assert "basis" not in sizes(loop)
    assert "gains" in sizes(loop)
    assert list(loop.children) == ["step", "controller"]


def test_a_layout_does_not_depend_on_the_way_there(loop):
    fresh = buffer_registry.layout(loop)
    loop.update(algorithm="implicit", stages=4, n=9)
    loop.update(algorithm="explicit", stages=2, n=3)
    assert buffer_registry.layout(loop) == fresh


def test_one_update_reaches_the_children_it_brings_in(loop):
    recognised = loop.update(algorithm="implicit", krylov=7, jacobian_location="shared")
    assert recognised == {"algorithm", "krylov", "jacobian_location"}
    assert sizes(loop)["basis"] == 7
    assert locations(loop)["jacobian"] == "shared"


def test_adopting_the_same_child_again_changes_nothing(loop):
    loop.update(stage_increments_location="shared", stages=4)
    before, product = state(loop), loop.product
    loop.adopt("step", loop.children["step"])
    assert state(loop) == before
    assert loop.product is product


def test_a_location_is_remembered_for_a_swapped_child(loop):
    loop.update(stage_increments_location="shared")
    loop.adopt("step", ExplicitStep(StepSettings(5)))
    assert locations(loop)["stage_increments"] == "shared"
    loop.update(algorithm="implicit")
    assert locations(loop)["stage_increments"] == "shared"
    assert buffer_registry.shared_buffer_bytes(loop) == 3 * 2 * 8


def test_a_location_is_remembered_for_a_buffer_that_comes_back(loop):
    loop.update(stages=4, extra_location="shared")
    loop.update(stages=1)
    loop.update(stages=4)
    assert locations(loop)["extra"] == "shared"


def test_a_location_is_remembered_for_grandchildren_of_a_later_child(loop):
    loop.update(algorithm="implicit", basis_location="shared")
    loop.update(algorithm="explicit")
    loop.update(algorithm="implicit")
    assert locations(loop)["basis"] == "shared"


def test_a_released_child_leaves_nothing(loop):
    controller = loop.children["controller"]
    parent = ExplicitStep(StepSettings())
    parent.adopt("controller", controller)
    product = parent.product
    parent.release("controller")
    parent.release("controller")
    assert "gains" not in sizes(parent)
    assert not parent.children
    assert parent.product is not product
    assert sizes(controller) == {"gains": 2}
    with pytest.raises(FlowError):
        parent.update(gains_location="shared")


def test_a_child_adopted_under_another_name_leaves_the_first():
    parent, child = ExplicitStep(StepSettings()), Solver(SolverSettings())
    parent.adopt("first", child)
    parent.adopt("second", child)
    assert list(parent.children) == ["second"]
    paths = [e.path for e in buffer_registry.layout(parent).entries if e.name == "basis"]
    assert paths == ["explicit_step.second"]


def test_an_old_child_no_longer_speaks_to_its_former_parent(loop):
    old = loop.children["step"]
    loop.adopt("step", ExplicitStep(StepSettings(5)))
    before, product = state(loop), loop.product
    asked = loop.registrations
    old.update(stages=4, n=50)
    assert loop.registrations == asked
    assert state(loop) == before
    assert loop.product is product


def test_a_child_that_is_no_factory_is_refused(loop):
    for thing in (len, ExplicitStep, object()):
        with pytest.raises(FlowError, match="child 'step' of loop"):
            loop.adopt("step", thing)
    with pytest.raises(FlowError, match="cannot be its child"):
        loop.children["step"].adopt("up", loop)


def test_an_update_inside_an_update_leaves_unknown_keys_to_the_outermost():
    class Forwarding(Solver):
        def _apply(self, updates):
            return super()._apply(updates) | self.inner.update(**updates)

    outer = Forwarding(SolverSettings())
    outer.inner = ExplicitStep(StepSettings())
    assert outer.update(stages=3, krylov=4) == {"stages", "krylov"}
    with pytest.raises(FlowError, match="nobody"):
        outer.update(nobody=1)


def test_a_dropped_tree_frees_its_entries():
    gc.collect()
    before = len(buffer_registry)
    loop = Loop(LoopSettings(algorithm="implicit"))
    _ = loop.product
    alive = weakref.ref(loop)
    assert len(buffer_registry) == before + 4
    del loop
    gc.collect()
    assert alive() is None
    assert len(buffer_registry) == before


# ------------------------------------------------------------------ hashes


def test_equal_configurations_have_equal_hashes_and_unequal_do_not():
    first, second = Loop(LoopSettings()), Loop(LoopSettings())
    assert first.config_hash == second.config_hash
    assert len(first.config_hash) == 64
    second.children["step"].update(stages=3)
    assert first.config_hash != second.config_hash


def test_unlike_components_hash_unlike():
    first, second = Solver(SolverSettings()), Controller(SolverSettings())
    for one in (first, second):
        buffer_registry.clear(one)
    assert first.config_hash != second.config_hash


COLOUR = Enum("COLOUR", ["RED", "BLUE"])


@frozen
class Content:
    content_hash: str


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (1, 1.0),
        (1, True),
        (1, "1"),
        (None, "None"),
        (0.1, math.nextafter(0.1, 1.0)),
        (0.0, -0.0),
        ((1, 2), (2, 1)),
        ((1, (2, 3)), (1, 2, 3)),
        (np.float32(1), np.float64(1)),
        (np.arange(3), np.arange(3.0)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.dtype("f4"), np.dtype("f8")),
        (COLOUR.RED, COLOUR.BLUE),
        ({"a": 1}, {"a": 2}),
        (np.float32, np.float64),
        (Content("x"), Content("y")),
        (b"1", "1"),
        (1j, 1 + 1j),
        (Path("a"), "a"),
    ],
)
def test_unlike_values_hash_unlike(one, two):
    assert stable_hash(one) != stable_hash(two)


def test_hashes_ignore_the_order_of_sets_and_mappings():
    assert stable_hash({"a": 1, "b": 2}) == stable_hash({"b": 2, "a": 1})
    assert stable_hash(frozenset("abc")) == stable_hash(frozenset("cba"))
    assert stable_hash(float("nan")) == stable_hash(float("nan"))


def test_a_value_without_stable_content_is_refused():
    with pytest.raises(FlowError, match="no stable content"):
        stable_hash(lambda: None)


def test_hashes_are_equal_in_another_process():
    code = (
        "from enum import Enum\nfrom cubie_flow.memory.hashing import stable_hash\n"
        "print(stable_hash({'b': frozenset('abc'), 'a': (1, 2.5, None, float)}))"
    )
    here = stable_hash({"a": (1, 2.5, None, float), "b": frozenset("cba")})
    root = Path(__file__).parents[2]
    for seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=root,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
        )
        assert there.stdout.strip() == here
