"""Padding and block sizes."""

from __future__ import annotations

import numpy as np
import pytest

from cubie_flow.errors import FlowError
from cubie_flow.memory import (
    BlockFit,
    BufferRegistry,
    bank_conflicts,
    fit_block,
    padded_stride_bytes,
)


class Step:
    pass


class Run:
    pass


@pytest.mark.parametrize(
    ("count", "itemsize", "stride"),
    [
        (0, 8, 0),
        (1, 1, 4),
        (4, 4, 4),
        (8, 4, 12),
        (12, 4, 12),
        (8, 8, 8),
        (12, 8, 24),
        (16, 8, 24),
        (24, 8, 24),
        (2, 2, 4),
    ],
)
def test_stride_is_an_odd_number_of_the_widest_items(count, itemsize, stride):
    assert padded_stride_bytes(count, itemsize) == stride


def test_a_float32_stride_never_misaligns_8_byte_views():
    """20 bytes are odd in floats, yet put the second run's doubles at an offset of 4."""
    registry, run = BufferRegistry(), Run()
    registry.register("x", run, 2, "shared", np.float64)
    registry.register("n", run, 1, "shared", np.float32)
    layout = registry.layout(run)
    widest = layout.widest_dtype("shared")
    assert widest is not None
    stride = padded_stride_bytes(layout.bytes("shared"), widest.itemsize)
    assert stride == 24
    arena = np.zeros(32 * stride, np.uint8)
    base = arena.ctypes.data
    empty = np.zeros(0, np.uint8)
    allocator = registry.get_allocator("x", run)
    for lane in range(32):
        view = allocator(arena[lane * stride : (lane + 1) * stride], empty, empty)
        assert (view.ctypes.data - base) % 8 == 0


@pytest.mark.parametrize("itemsize", [4, 8])
def test_a_padded_stride_has_no_bank_conflicts(itemsize):
    for count in range(1, 600):
        assert bank_conflicts(padded_stride_bytes(count, itemsize), itemsize) == 1


@pytest.mark.parametrize(
    ("stride", "itemsize", "degree"),
    [(128, 4, 32), (8, 4, 2), (4, 4, 1), (0, 4, 1), (64, 4, 16), (16, 8, 2), (128, 8, 16)],
)
def test_bank_conflicts_of_known_strides(stride, itemsize, degree):
    assert bank_conflicts(stride, itemsize) == degree


def test_one_lane_has_no_conflict():
    assert bank_conflicts(128, 4, lanes=1) == 1


def test_a_wrong_item_size_is_refused():
    with pytest.raises(FlowError, match="widest_itemsize=16"):
        padded_stride_bytes(8, 16)
    with pytest.raises(FlowError, match="bytes_per_run=-8"):
        padded_stride_bytes(-8, 8)


@pytest.mark.parametrize(
    ("block", "stride", "limit", "expected"),
    [
        (256, 0, 0, BlockFit(256, 0, 0)),
        (256, 100, 48 * 1024, BlockFit(256, 0, 25600)),
        (256, 1000, 48 * 1024, BlockFit(32, 3, 32000)),
        (192, 500, 48 * 1024, BlockFit(96, 1, 48000)),
        (96, 900, 48 * 1024, BlockFit(32, 1, 28800)),
        (64, 20000, 48 * 1024, BlockFit(2, 5, 40000)),
        (48, 30000, 48 * 1024, BlockFit(1, 5, 30000)),
        (1, 49152, 49152, BlockFit(1, 0, 49152)),
    ],
)
def test_blocks_halve_until_they_fit(block, stride, limit, expected):
    assert fit_block(block, stride, limit) == expected


def test_a_run_larger_than_the_limit_never_halves_the_block_to_zero():
    with pytest.raises(FlowError, match="one run needs 49156 bytes"):
        fit_block(256, 49156, 49152)
    with pytest.raises(FlowError, match="one run needs 4 bytes"):
        fit_block(1, 4, 0)
    with pytest.raises(FlowError, match="block_size=0"):
        fit_block(0, 4, 100)


def tree():
    registry, run, step = BufferRegistry(), Run(), Step()
    registry.register("state", run, 4, "shared", np.float64)
    registry.register("kept", run, 1, "local", np.float64)
    registry.register("stages", step, 2000, "shared", np.float64)
    registry.register("scratch", step, 1500, "shared", np.float64, aliases="stages")
    registry.register("jacobian", step, 3000, "shared", np.float64)
    registry.get_child_allocators(run, step, "step")
    return registry, run, step


def refused(registry, run, limit):
    layout = registry.layout(run)
    stride = padded_stride_bytes(layout.bytes("shared"), 8)
    with pytest.raises(FlowError) as caught:
        fit_block(32, stride, limit, layout=layout)
    return str(caught.value)


def test_the_error_names_the_largest_buffers_and_one_move_that_fits():
    registry, run, step = tree()
    message = refused(registry, run, 20000)
    assert "run.step.jacobian (24000 bytes), run.step.stages (16000 bytes)" in message
    assert "jacobian_location=local would fit" in message
    assert "stages_location" not in message
    assert "kept" not in message
    registry.update(run, {"jacobian_location": "local"})
    assert padded_stride_bytes(registry.shared_buffer_bytes(run), 8) <= 20000
    del step


def test_a_suggested_move_takes_the_aliases_along():
    registry, run, step = tree()
    message = refused(registry, run, 25000)
    assert "stages_location=local scratch_location=local would fit" in message
    registry.update(run, {"stages_location": "local", "scratch_location": "local"})
    assert padded_stride_bytes(registry.shared_buffer_bytes(run), 8) <= 25000
    del step


def test_moves_that_only_fit_together_are_named_together():
    registry, run, step = tree()
    message = refused(registry, run, 100)
    moves = "jacobian_location=local stages_location=local scratch_location=local"
    assert f"{moves} together would fit" in message
    for key in ("jacobian_location", "stages_location", "scratch_location"):
        registry.update(run, {key: "local"})
    assert padded_stride_bytes(registry.shared_buffer_bytes(run), 8) <= 100
    del step


def test_a_move_that_only_opens_a_gap_is_not_suggested():
    """Without ``x`` the doubles stay at byte 8: its 7 bytes free nothing."""
    registry, run = BufferRegistry(), Run()
    for name, size, dtype in (
        ("p", 1, np.int8),
        ("x", 7, np.int8),
        ("d", 2, np.float64),
        ("q", 1, np.int8),
    ):
        registry.register(name, run, size, "shared", dtype)
    message = refused(registry, run, 24)
    assert message.endswith("d_location=local would fit")
    assert "x_location" not in message


def test_a_move_that_takes_the_widest_item_away_is_padded_anew():
    """8 bytes of doubles are odd already, 8 bytes of floats are padded to 12."""
    registry, run = BufferRegistry(), Run()
    registry.register("d", run, 4, "shared", np.float64)
    registry.register("f", run, 2, "shared", np.float32)
    message = refused(registry, run, 8)
    assert "d_location=local f_location=local together would fit" in message
