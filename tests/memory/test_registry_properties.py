"""What holds for every tree of buffers, however it was declared."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cubie_flow.memory import ARENAS, BufferRegistry, Layout, fit_block, padded_stride_bytes

LOCATIONS = ("register", "local", "shared")
DTYPES = (np.int8, np.int16, np.int32, np.float32, np.float64, np.int64)


class Owner:
    pass


buffers = st.tuples(
    st.integers(0, 9),
    st.sampled_from(LOCATIONS),
    st.sampled_from(DTYPES),
    st.booleans(),
    st.one_of(st.none(), st.integers(0, 5)),
)
owners = st.lists(buffers, max_size=6)
# Each further owner hangs under one that was there before it.
trees = st.tuples(owners, st.lists(st.tuples(owners, st.integers(0, 4)), max_size=4))
properties = settings(max_examples=150, deadline=None, derandomize=True)


def declare(registry, owner, declarations):
    for number, (size, location, dtype, persistent, target) in enumerate(declarations):
        # Only earlier buffers are targets here, so that no circle arises.
        aliases = f"b{target}" if target is not None and target < number else None
        registry.register(f"b{number}", owner, size, location, dtype, persistent, aliases)


def plant(tree, registry=None):
    registry = registry or BufferRegistry()
    first, rest = tree
    planted = [Owner()]
    for _, parent in rest:
        owner = Owner()
        registry.get_child_allocators(planted[parent % len(planted)], owner, f"o{len(planted)}")
        planted.append(owner)
    for owner, declarations in zip(planted, [first, *(d for d, _ in rest)], strict=True):
        declare(registry, owner, declarations)
    return registry, planted


def overlap(one, two) -> bool:
    return (
        one.arena == two.arena
        and one.offset < two.offset + two.bytes
        and two.offset < one.offset + one.bytes
    )


def check(layout: Layout) -> None:
    for one, two in combinations(layout.entries, 2):
        if overlap(one, two):
            assert one.path == two.path
            assert one.alias == two.name or two.alias == one.name
            assert not one.persistent
            assert not two.persistent
            assert one.arena in ("local", "shared")
    for entry in layout.entries:
        assert entry.bytes == entry.elements * entry.dtype.itemsize
        if entry.bytes:
            assert entry.offset % entry.dtype.itemsize == 0
    for arena in ARENAS:
        ends = [e.offset + e.bytes for e in layout.entries if e.arena == arena and e.bytes]
        assert layout.bytes(arena) == max(ends, default=0)


@given(trees)
@properties
def test_only_an_alias_and_its_target_overlap_and_totals_are_the_largest_extents(tree):
    registry, planted = plant(tree)
    for owner in planted:
        check(registry.layout(owner))


@given(trees, st.dictionaries(st.integers(0, 5), st.sampled_from(LOCATIONS)))
@properties
def test_the_same_holds_after_any_move(tree, moves):
    registry, planted = plant(tree)
    _ = registry.layout(planted[0])
    updates = {f"b{number}_location": location for number, location in moves.items()}
    recognised = registry.update(planted[0], updates)
    layout = registry.layout(planted[0])
    check(layout)
    names = {f"{entry.name}_location" for entry in layout.entries}
    assert recognised == names & set(updates)
    for entry in layout.entries:
        key = f"{entry.name}_location"
        assert entry.location == updates.get(key, entry.location)


@given(trees)
@properties
def test_a_layout_depends_on_declarations_only(tree):
    registry, planted = plant(tree)
    other, replanted = plant(tree)
    assert registry.layout(planted[0]) == other.layout(replanted[0])
    # Declared anew from an unlike past, the layout is the same again.
    declarations = [tree[0], *(d for d, _ in tree[1])]
    for owner in planted:
        registry.register("before", owner, 3, "shared", np.float64)
    for owner, wish in zip(planted, declarations, strict=True):
        registry.renew(owner)
        declare(registry, owner, wish)
    assert registry.layout(planted[0]) == other.layout(replanted[0])


@given(trees)
@properties
def test_an_owners_region_holds_its_own_layout_unchanged(tree):
    """Relative offsets plus the region's start are the absolute offsets of the root."""
    registry, planted = plant(tree)
    root = registry.layout(planted[0])
    starts = {id(planted[0]): dict.fromkeys(("shared", "local", "persistent"), 0)}
    for number, (_, parent) in enumerate(tree[1], start=1):
        above, child = planted[parent % number], planted[number]
        regions = registry.get_child_allocators(above, child)
        starts[id(child)] = {
            arena: starts[id(above)][arena] + getattr(regions, arena).offset
            for arena in ("shared", "local", "persistent")
        }
        for arena in ("shared", "local", "persistent"):
            assert getattr(regions, arena).bytes == registry.layout(child).bytes(arena)
    for owner in planted:
        for entry in registry.layout(owner).entries:
            if entry.belongs_to(owner) and entry.arena != "register":
                allocator = registry.get_allocator(entry.name, owner)
                start = starts[id(owner)][entry.arena]
                assert root.find(owner, entry.name).offset == start + allocator.offset
                assert root.find(owner, entry.name).alias == allocator.alias


@given(trees)
@properties
def test_every_buffer_holds_what_was_written_unless_aliased(tree):
    registry, planted = plant(tree)
    layout = registry.layout(planted[0])
    kinds = ("shared", "local", "persistent")
    memory = {kind: np.zeros(layout.bytes(kind), np.uint8) for kind in kinds}
    views = []
    for number, entry in enumerate(layout.entries):
        if entry.arena != "register" and entry.alias is None:
            end = entry.offset + entry.bytes
            views.append((number, memory[entry.arena][entry.offset : end].view(entry.dtype)))
    for number, view in views:
        view[:] = number + 1
    for number, view in views:
        assert np.all(view == number + 1)


@given(trees, st.sampled_from([32, 48, 128, 1024]), st.integers(0, 4096))
@properties
def test_host_bytes_are_the_device_stride_times_the_block(tree, block, limit):
    """Every run's view ends inside what the host reserved, on its own aligned place."""
    registry, planted = plant(tree)
    layout = registry.layout(planted[0])
    widest = layout.widest_dtype("shared")
    itemsize = 4 if widest is None else widest.itemsize
    stride = padded_stride_bytes(layout.bytes("shared"), itemsize)
    assert stride >= layout.bytes("shared")
    assert (stride == 0) == (layout.bytes("shared") == 0)
    assert stride == 0 or (stride // max(itemsize, 4)) % 2 == 1
    for entry in layout.entries:
        assert entry.arena != "shared" or not entry.bytes or stride % entry.dtype.itemsize == 0
    if stride <= limit:
        fit = fit_block(block, stride, limit)
        assert 1 <= fit.block_size <= block
        assert fit.shared_bytes == fit.block_size * stride <= limit


@given(trees, st.integers(0, 300))
@properties
def test_a_suggested_move_always_fits(tree, limit):
    registry, planted = plant(tree)
    layout = registry.layout(planted[0])
    widest = layout.widest_dtype("shared")
    stride = padded_stride_bytes(layout.bytes("shared"), widest.itemsize if widest else 4)
    if stride <= limit:
        return
    try:
        fit_block(32, stride, limit, layout=layout)
    except ValueError as error:
        advice = str(error).rpartition("; ")[2].removesuffix(" would fit")
    for choice in advice.removesuffix(" together").split(" or "):
        again, replanted = plant(tree)
        moves = dict(key.split("=") for key in choice.split())
        assert again.update(replanted[0], moves) == set(moves)
        moved = again.layout(replanted[0])
        left = moved.widest_dtype("shared")
        bytes_left = padded_stride_bytes(moved.bytes("shared"), left.itemsize if left else 4)
        assert bytes_left <= limit, (advice, choice)
