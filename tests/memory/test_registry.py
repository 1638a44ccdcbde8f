"""What the buffer registry promises, one test a promise or a trap others fell into."""

from __future__ import annotations

import gc

import attrs
import numpy as np
import pytest

from cubie_flow.errors import FlowError
from cubie_flow.memory import ARENAS, BufferRegistry, buffer_registry
from cubie_flow.memory.registry import Layout


class Owner:
    """Anything can own buffers."""


class Loop(Owner):
    pass


class SingleRun(Owner):
    pass


@attrs.define
class EqualOwner:
    """All instances are equal and none is hashable."""

    size: int = 3


@pytest.fixture
def registry() -> BufferRegistry:
    return BufferRegistry()


def offsets(layout: Layout) -> dict[str, tuple[str, int, int]]:
    return {f"{e.path}.{e.name}": (e.arena, e.offset, e.bytes) for e in layout.entries}


def arenas(layout: Layout) -> dict[str, np.ndarray]:
    kinds = ("shared", "local", "persistent")
    return {kind: np.zeros(layout.bytes(kind), np.uint8) for kind in kinds}


# ------------------------------------------------------------------ one owner


def test_buffers_lie_in_registration_order(registry):
    owner = SingleRun()
    registry.register("a", owner, 3, "shared", np.float32)
    registry.register("b", owner, 2, "local", np.float64)
    registry.register("c", owner, 1, "shared", np.float64)
    registry.register("d", owner, 5, "register", np.float64)
    layout = registry.layout(owner)
    assert offsets(layout) == {
        "single_run.a": ("shared", 0, 12),
        "single_run.b": ("local", 0, 16),
        "single_run.c": ("shared", 16, 8),
        "single_run.d": ("register", 0, 40),
    }
    assert [layout.bytes(arena) for arena in ARENAS] == [40, 24, 16, 0]
    assert registry.shared_buffer_bytes(owner) == 24
    assert registry.local_buffer_bytes(owner) == 16


def test_declaring_again_keeps_the_place_and_takes_the_new_size(registry):
    owner = Owner()
    registry.register("a", owner, 1, "local", np.float64)
    registry.register("b", owner, 1, "local", np.float64)
    registry.register("a", owner, 4, "local", np.float64)
    assert [(e.name, e.offset) for e in registry.layout(owner).entries] == [("a", 0), ("b", 32)]


def test_persistent_space_is_sized_from_persistent_buffers_not_from_the_local_total(registry):
    owner = Owner()
    registry.register("scratch", owner, 2, "local", np.float64)
    registry.register("kept", owner, 7, "local", np.float64, persistent=True)
    assert registry.local_buffer_bytes(owner) == 16
    assert registry.persistent_local_buffer_bytes(owner) == 56
    allocator = registry.get_allocator("kept", owner)
    assert (allocator.arena, allocator.location, allocator.offset) == ("persistent", "local", 0)
    memory = arenas(registry.layout(owner))
    allocator(**memory)[:] = 1.0
    registry.get_allocator("scratch", owner)(**memory)[:] = np.nan
    assert np.all(allocator(**memory) == 1.0)


def test_a_persistent_buffer_moved_to_shared_leaves_the_persistent_arena(registry):
    owner = Owner()
    registry.register("kept", owner, 7, "local", np.float64, persistent=True)
    registry.update(owner, {"kept_location": "shared"})
    assert registry.persistent_local_buffer_bytes(owner) == 0
    assert registry.shared_buffer_bytes(owner) == 56
    assert registry.layout(owner).find(owner, "kept").persistent


def test_int32_buffers_are_read_as_int32_and_counted_in_their_own_bytes(registry):
    owner = Owner()
    registry.register("x", owner, 2, "shared", np.float64)
    registry.register("count", owner, 3, "shared", np.int32)
    registry.register("y", owner, 1, "shared", np.float64)
    memory = arenas(registry.layout(owner))
    count = registry.get_allocator("count", owner)(**memory)
    assert count.dtype == np.int32
    assert count.shape == (3,)
    count[:] = [1, -2, 2**31 - 1]
    assert memory["shared"][16:28].view(np.int32).tolist() == [1, -2, 2**31 - 1]
    assert registry.get_allocator("y", owner).offset == 32


def test_layout_counts_elements_of_any_dtype_rounded_up(registry):
    owner = Owner()
    registry.register("x", owner, 3, "shared", np.float32)
    layout = registry.layout(owner)
    assert layout.elements("shared", np.float32) == 3
    assert layout.elements("shared", np.float64) == 2
    assert layout.elements("local", np.float64) == 0


def test_widest_dtype_is_of_what_is_really_there(registry):
    owner = Owner()
    registry.register("nothing", owner, 0, "shared", np.float64)
    assert registry.layout(owner).widest_dtype("shared") is None
    registry.register("narrow", owner, 1, "shared", np.int32)
    registry.register("elsewhere", owner, 1, "local", np.float64)
    assert registry.layout(owner).widest_dtype("shared") == np.int32
    registry.update(owner, {"elsewhere_location": "shared"})
    assert registry.layout(owner).widest_dtype("shared") == np.float64


def test_allocator_views_exactly_its_elements_of_the_callers_memory(registry):
    owner = Owner()
    for name, location in (("a", "shared"), ("b", "local"), ("c", "shared")):
        registry.register(name, owner, 4, location, np.float32)
    memory = arenas(registry.layout(owner))
    view = registry.get_allocator("c", owner)(**memory)
    view[:] = 5.0
    assert view.shape == (4,)
    assert np.shares_memory(view, memory["shared"])
    assert memory["shared"].view(np.float32).tolist() == [0.0] * 4 + [5.0] * 4
    assert not memory["local"].any()


def test_a_register_buffer_touches_no_arena(registry):
    owner = Owner()
    registry.register("a", owner, 4, "register", np.float32)
    allocator = registry.get_allocator("a", owner)
    empty = np.zeros(0, np.uint8)
    first, second = allocator(empty, empty, empty), allocator(empty, empty, empty)
    assert first.shape == (4,)
    assert not np.shares_memory(first, second)


def test_a_short_or_wrong_arena_is_refused(registry):
    owner = Owner()
    registry.register("a", owner, 4, "shared", np.float32)
    allocator = registry.get_allocator("a", owner)
    empty = np.zeros(0, np.uint8)
    with pytest.raises(FlowError, match=r"owner\.a needs bytes 0 to 16 of an arena of 15 bytes"):
        allocator(np.zeros(15, np.uint8), empty, empty)
    with pytest.raises(FlowError, match="flat uint8"):
        allocator(np.zeros(16, np.float32), empty, empty)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"location": "globl"}, "a_location is 'globl'; it must be one of register, local, shared"),
        ({"location": "shraed"}, "did you mean 'shared'"),
        ({"size": -1}, "size=-1 of buffer 'a'"),
        ({"size": 2.5}, "size=2.5 of buffer 'a'"),
        ({"dtype": "float12"}, "dtype='float12' of buffer 'a' is not a dtype"),
        ({"dtype": np.complex128}, "dtype=complex128 of buffer 'a'"),
        ({"name": "a b"}, "'a b' is not an identifier"),
        ({"aliases": "a"}, "cannot alias itself"),
        ({"owner": np.sin}, "component instance"),
        ({"owner": 3}, "no weak references"),
    ],
)
def test_a_wrong_declaration_is_refused_by_name(registry, change, message):
    wish = {"name": "a", "owner": Owner(), "size": 1, "location": "local", "dtype": np.float32}
    wish |= change
    with pytest.raises(FlowError, match=message):
        registry.register(**wish)


def test_unknown_names_are_refused_with_the_nearest(registry):
    owner = Owner()
    registry.register("stage_increments", owner, 1, "local", np.float32)
    with pytest.raises(FlowError, match="did you mean 'stage_increments'"):
        registry.get_allocator("stage_increment", owner)
    with pytest.raises(FlowError, match="is missing"):
        registry.layout(owner).find(Owner(), "stage_increments")
    with pytest.raises(FlowError, match="did you mean 'shared'"):
        registry.layout(owner).bytes("share")


# ------------------------------------------------------------------ trees


def test_child_sizes_follow_grandchildren_that_register_later(registry):
    run, loop, step = SingleRun(), Loop(), Owner()
    regions = registry.get_child_allocators(run, loop, "loop")
    registry.get_child_allocators(loop, step, "step")
    assert regions.shared.bytes == 0
    registry.register("late", step, 5, "shared", np.float64)
    assert regions.shared.bytes == 40
    assert regions.shared.elements(np.float32) == 10
    assert registry.shared_buffer_bytes(run) == 40
    assert [e.path for e in registry.layout(run).entries] == ["single_run.loop.step"]


def test_supplying_the_same_child_again_keeps_its_registrations_and_place(registry):
    run, loop, step = SingleRun(), Loop(), Owner()
    registry.register("a", loop, 2, "local", np.float64)
    registry.get_child_allocators(run, loop, "loop")
    registry.get_child_allocators(loop, step, "step")
    registry.register("b", step, 2, "local", np.float64)
    before = registry.layout(run)
    registry.get_child_allocators(run, loop, "loop")
    registry.get_child_allocators(run, loop)
    assert registry.layout(run) is before
    assert registry.local_buffer_bytes(run) == 32


def test_a_swapped_child_leaves_nothing_stale(registry):
    run, old, new = SingleRun(), Loop(), Loop()
    registry.register("big", old, 1000, "shared", np.float64)
    registry.register("small", new, 1, "shared", np.float64)
    stale = registry.get_child_allocators(run, old, "step")
    registry.get_child_allocators(run, new, "step")
    assert [e.name for e in registry.layout(run).entries] == ["small"]
    assert registry.shared_buffer_bytes(run) == 8
    assert registry.shared_buffer_bytes(old) == 8000
    with pytest.raises(FlowError, match="no longer a child"):
        _ = stale.shared
    assert registry.update(run, {"big_location": "local"}) == set()


def test_swapping_one_child_keeps_the_survivors(registry):
    run, controller, old, new = SingleRun(), Owner(), Loop(), Loop()
    registry.register("own", run, 1, "shared", np.float64)
    registry.register("gain", controller, 1, "shared", np.float64)
    registry.register("k", old, 3, "shared", np.float64)
    registry.register("k", new, 4, "shared", np.float64)
    registry.get_child_allocators(run, old, "step")
    registry.get_child_allocators(run, controller, "controller")
    registry.update(run, {"gain_location": "local"})
    registry.get_child_allocators(run, new, "step")
    assert offsets(registry.layout(run)) == {
        "single_run.own": ("shared", 0, 8),
        "single_run.step.k": ("shared", 8, 32),
        "single_run.controller.gain": ("local", 0, 8),
    }


def test_renewing_a_parent_does_not_cascade_into_the_childs_solver(registry):
    loop, step, solver = Loop(), Owner(), Owner()
    registry.register("state", loop, 1, "shared", np.float64)
    registry.register("k", step, 1, "shared", np.float64)
    registry.register("krylov", solver, 1, "shared", np.float64)
    registry.get_child_allocators(loop, step, "step")
    registry.get_child_allocators(step, solver, "solver")
    kept = registry.layout(solver)
    registry.renew(loop)
    registry.register("state", loop, 2, "shared", np.float64)
    assert [e.name for e in registry.layout(loop).entries] == ["state", "k", "krylov"]
    assert registry.layout(solver) is kept


def test_renewed_order_is_that_of_the_new_declarations(registry):
    owner = Owner()
    for names in (("b",), ("a", "b")):
        registry.renew(owner)
        for name in names:
            registry.register(name, owner, 1, "local", np.float64)
    assert [e.name for e in registry.layout(owner).entries] == ["a", "b"]


def test_regions_of_wider_and_narrower_children_are_counted_and_aligned(registry):
    run, wide, narrow = SingleRun(), Loop(), Owner()
    registry.register("flag", run, 3, "shared", np.int8)
    registry.register("w", wide, 1, "shared", np.float64)
    registry.register("n", narrow, 3, "shared", np.int16)
    regions = {
        "narrow": registry.get_child_allocators(run, narrow, "narrow"),
        "wide": registry.get_child_allocators(run, wide, "wide"),
    }
    assert (regions["narrow"].shared.offset, regions["narrow"].shared.bytes) == (4, 6)
    assert (regions["wide"].shared.offset, regions["wide"].shared.bytes) == (16, 8)
    assert registry.shared_buffer_bytes(run) == 24


def test_a_childs_allocator_works_inside_its_region(registry):
    run, loop, step = SingleRun(), Loop(), Owner()
    registry.register("a", run, 1, "shared", np.float32)
    registry.register("b", loop, 1, "shared", np.float32)
    registry.register("c", step, 2, "shared", np.float64)
    outer = registry.get_child_allocators(run, loop, "loop")
    inner = registry.get_child_allocators(loop, step, "step")
    memory = arenas(registry.layout(run))
    view = registry.get_allocator("c", step)(*inner(*outer(**memory)))
    view[:] = 7.0
    entry = registry.layout(run).find(step, "c")
    there = memory["shared"][entry.offset : entry.offset + entry.bytes].view(np.float64)
    assert there.tolist() == [7.0, 7.0]


def test_persistent_regions_of_children_do_not_mix_with_plain_local(registry):
    run, loop = SingleRun(), Loop()
    registry.register("scratch", loop, 4, "local", np.float64)
    registry.register("kept", loop, 1, "local", np.float64, persistent=True)
    regions = registry.get_child_allocators(run, loop)
    assert (regions.local.bytes, regions.persistent.bytes) == (32, 8)


def test_a_child_by_compiled_function_is_refused(registry):
    numba = pytest.importorskip("numba")
    compiled = numba.njit(lambda x: x)
    for thing in (compiled, len, lambda: None, Loop):
        with pytest.raises(FlowError, match="component instance"):
            registry.get_child_allocators(SingleRun(), thing, "step")


def test_an_owner_cannot_be_its_own_descendant(registry):
    run, loop = SingleRun(), Loop()
    registry.get_child_allocators(run, loop)
    for owner, child in ((loop, run), (run, run)):
        with pytest.raises(FlowError, match="cannot be its child"):
            registry.get_child_allocators(owner, child)


def test_children_without_a_name_get_free_labels(registry):
    run, children = SingleRun(), [Loop(), Loop()]
    for child in children:
        registry.register("a", child, 1, "local", np.float64)
        registry.get_child_allocators(run, child)
    assert [e.path for e in registry.layout(run).entries] == [
        "single_run.loop",
        "single_run.loop_2",
    ]


def test_a_child_linked_under_another_name_leaves_the_first(registry):
    run, loop = SingleRun(), Loop()
    registry.register("a", loop, 1, "local", np.float64)
    registry.get_child_allocators(run, loop, "first")
    registry.get_child_allocators(run, loop, "second")
    assert [e.path for e in registry.layout(run).entries] == ["single_run.second"]


def test_an_owner_that_hangs_in_a_tree_twice_has_no_one_place(registry):
    run, loop, step, shared_child = SingleRun(), Loop(), Owner(), Owner()
    registry.register("a", shared_child, 1, "local", np.float64)
    for parent in (loop, step):
        registry.get_child_allocators(run, parent)
        registry.get_child_allocators(parent, shared_child)
    assert registry.local_buffer_bytes(run) == 16
    with pytest.raises(FlowError, match="has 2 entries"):
        registry.layout(run).find(shared_child, "a")


def test_owners_are_told_apart_by_identity_never_by_equality(registry):
    first, second = EqualOwner(), EqualOwner()
    assert first == second
    registry.register("a", first, 1, "local", np.float64)
    registry.register("b", second, 2, "local", np.float64)
    assert [e.name for e in registry.layout(first).entries] == ["a"]
    assert registry.layout(second).find(second, "b").bytes == 16
    with pytest.raises(FlowError, match="is missing"):
        registry.layout(second).find(first, "b")


def test_a_dropped_owner_frees_its_entries(registry):
    run, loop = SingleRun(), Loop()
    registry.register("a", run, 1, "local", np.float64)
    registry.register("b", loop, 1, "local", np.float64)
    registry.get_child_allocators(run, loop)
    assert (len(registry), registry.local_buffer_bytes(run)) == (2, 16)
    del loop
    gc.collect()
    assert (len(registry), registry.local_buffer_bytes(run)) == (1, 8)
    layout = registry.layout(run)
    del run
    gc.collect()
    assert len(registry) == 0
    assert layout.bytes("local") == 8


def test_the_singleton_is_a_registry():
    assert isinstance(buffer_registry, BufferRegistry)


# ------------------------------------------------------------------ laziness


def test_layout_is_the_same_object_until_something_below_changes(registry):
    run, loop, step, other = SingleRun(), Loop(), Owner(), Owner()
    registry.get_child_allocators(run, loop)
    registry.get_child_allocators(loop, step)
    registry.register("a", step, 1, "local", np.float64)
    first = registry.layout(run)
    registry.register("a", step, 1, "local", np.float64)
    registry.register("elsewhere", other, 1, "local", np.float64)
    registry.update(run, {})
    assert registry.layout(run) is first
    registry.register("a", step, 2, "local", np.float64)
    second = registry.layout(run)
    assert second.bytes("local") == 16
    registry.update(run, {"a_location": "shared"})
    third = registry.layout(run)
    assert third.bytes("shared") == 16
    registry.update(run, {"a_location": "shared"})
    assert registry.layout(run) is third
    registry.clear(step)
    assert registry.layout(run).entries == ()
    assert first.bytes("local") == 8


# ------------------------------------------------------------------ locations


def test_update_moves_a_buffer_at_any_depth_and_returns_what_it_recognised(registry):
    run, loop, step = SingleRun(), Loop(), Owner()
    registry.get_child_allocators(run, loop)
    registry.get_child_allocators(loop, step)
    registry.register("k", step, 2, "local", np.float64)
    registry.register("k", loop, 1, "local", np.float64)
    updates = {"k_location": "shared", "precision": "float32", "z_location": "nowhere"}
    assert registry.update(run, updates) == {"k_location"}
    assert registry.layout(run).bytes("shared") == 24
    assert registry.layout(run).bytes("local") == 0


def test_an_unknown_location_is_refused_naming_the_allowed_and_moves_nothing(registry):
    owner = Owner()
    registry.register("a", owner, 1, "local", np.float64)
    registry.register("b", owner, 1, "local", np.float64)
    before = registry.layout(owner)
    with pytest.raises(FlowError, match=r"b_location is .globl.; it must be one of register"):
        registry.update(owner, {"a_location": "shared", "b_location": "globl"})
    assert registry.layout(owner) is before


@pytest.mark.parametrize("forget", ["nothing", "renew", "clear"])
def test_a_location_survives_registering_again(registry, forget):
    owner = Owner()
    registry.register("a", owner, 1, "local", np.float64)
    registry.update(owner, {"a_location": "shared"})
    if forget != "nothing":
        getattr(registry, forget)(owner)
    registry.register("a", owner, 3, "local", np.float64)
    assert registry.layout(owner).find(owner, "a").location == "shared"
    assert registry.shared_buffer_bytes(owner) == 24


# ------------------------------------------------------------------ aliases


def alias_pair(registry, owner, target=4, alias=2, **settings):
    registry.register("target", owner, target, "local", np.float64)
    registry.register("alias", owner, alias, "local", np.float64, aliases="target", **settings)


def test_an_alias_reuses_its_targets_space_in_the_same_memory(registry):
    owner = Owner()
    alias_pair(registry, owner)
    alias = registry.get_allocator("alias", owner)
    assert (alias.alias, alias.offset) == ("target", 0)
    assert registry.local_buffer_bytes(owner) == 32


def test_an_alias_may_be_declared_before_its_target(registry):
    owner = Owner()
    registry.register("alias", owner, 2, "local", np.float64, aliases="target")
    registry.register("target", owner, 4, "local", np.float64)
    assert registry.get_allocator("alias", owner).alias == "target"
    assert registry.local_buffer_bytes(owner) == 32


def test_moving_the_target_or_the_alias_places_the_alias_anew(registry):
    owner = Owner()
    alias_pair(registry, owner)
    registry.update(owner, {"target_location": "shared"})
    assert registry.get_allocator("alias", owner).alias is None
    assert (registry.shared_buffer_bytes(owner), registry.local_buffer_bytes(owner)) == (32, 16)
    registry.update(owner, {"alias_location": "shared"})
    assert registry.get_allocator("alias", owner).alias == "target"
    assert (registry.shared_buffer_bytes(owner), registry.local_buffer_bytes(owner)) == (32, 0)


def test_shrinking_the_target_places_the_alias_anew(registry):
    owner = Owner()
    alias_pair(registry, owner)
    registry.register("target", owner, 1, "local", np.float64)
    alias = registry.get_allocator("alias", owner)
    assert (alias.alias, alias.offset) == (None, 8)
    assert registry.local_buffer_bytes(owner) == 24


def test_siblings_never_overlap_and_the_one_that_does_not_fit_gets_its_own_space(registry):
    owner = Owner()
    registry.register("target", owner, 4, "shared", np.float64)
    for name, size in (("first", 2), ("second", 3), ("third", 2)):
        registry.register(name, owner, size, "shared", np.float64, aliases="target")
    places = {e.name: (e.offset, e.alias) for e in registry.layout(owner).entries}
    assert places == {
        "target": (0, None),
        "first": (0, "target"),
        "second": (32, None),
        "third": (16, "target"),
    }
    assert registry.shared_buffer_bytes(owner) == 56


@pytest.mark.parametrize("persistent", ["target", "alias", "both"])
@pytest.mark.parametrize("location", ["local", "shared"])
def test_an_alias_never_overlaps_persistent_storage(registry, persistent, location):
    owner = Owner()
    kept = {"target": persistent != "alias", "alias": persistent != "target"}
    registry.register("target", owner, 4, location, np.float64, persistent=kept["target"])
    registry.register(
        "alias", owner, 2, location, np.float64, persistent=kept["alias"], aliases="target"
    )
    assert registry.get_allocator("alias", owner).alias is None
    assert sum(registry.layout(owner).bytes(arena) for arena in ARENAS) == 48


def test_registers_have_no_address_to_share(registry):
    owner = Owner()
    alias_pair(registry, owner)
    registry.update(owner, {"target_location": "register", "alias_location": "register"})
    assert registry.get_allocator("alias", owner).alias is None
    assert registry.layout(owner).bytes("register") == 48


def test_an_alias_of_an_alias_never_overwrites_the_first_buffer(registry):
    owner = Owner()
    registry.register("c", owner, 4, "local", np.float64)
    registry.register("b", owner, 4, "local", np.float64, aliases="c")
    registry.register("a", owner, 4, "local", np.float64, aliases="b")
    assert registry.get_allocator("b", owner).alias == "c"
    assert registry.get_allocator("a", owner).offset == 32
    registry.update(owner, {"c_location": "shared"})
    assert registry.get_allocator("a", owner).alias == "b"


def test_a_wider_alias_is_aligned_inside_a_narrower_target(registry):
    owner = Owner()
    registry.register("odd", owner, 1, "shared", np.float32)
    registry.register("target", owner, 8, "shared", np.float32)
    registry.register("narrow", owner, 1, "shared", np.float32, aliases="target")
    registry.register("wide", owner, 3, "shared", np.float64, aliases="target")
    places = {e.name: (e.offset, e.alias) for e in registry.layout(owner).entries}
    assert places["target"] == (8, None)
    assert places["narrow"] == (8, "target")
    assert places["wide"] == (16, "target")


def test_an_alias_of_nothing_and_a_circle_are_refused_by_name(registry):
    owner = Owner()
    registry.register("stage_cache", owner, 1, "local", np.float64)
    registry.register("alias", owner, 1, "local", np.float64, aliases="stage_cach")
    with pytest.raises(FlowError, match="did you mean 'stage_cache'"):
        registry.layout(owner)
    registry.register("alias", owner, 1, "local", np.float64, aliases="stage_cache")
    registry.register("stage_cache", owner, 1, "local", np.float64, aliases="alias")
    with pytest.raises(FlowError, match="circle"):
        registry.layout(owner)


# ------------------------------------------------------------------ snapshots


def test_a_snapshot_puts_the_whole_subtree_back(registry):
    run, loop, other = SingleRun(), Loop(), Owner()
    registry.register("a", loop, 1, "local", np.float64)
    registry.register("b", other, 9, "local", np.float64)
    registry.get_child_allocators(run, loop, "step")
    before = registry.layout(run)
    restore = registry.snapshot(run)
    registry.register("a", loop, 5, "local", np.float64)
    registry.update(run, {"a_location": "shared"})
    registry.get_child_allocators(run, other, "step")
    assert registry.layout(run) != before
    restore()
    assert registry.layout(run) == before
    registry.register("a", loop, 1, "local", np.float64)
    assert registry.layout(run) == before
