"""What a plan and a placement study must show.

More of it is held by `tests/memory` (the registry's traps, padding and its property tests) and by
`test_targets.py` (what is rebuilt, padded sizes of a kernel).
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import cubie_flow
from cubie_flow import OdeSystem
from cubie_flow.expressions import emit
from cubie_flow.integrators.run import RunSettings, SingleIntegratorRun
from cubie_flow.integrators.tolerances import Tolerances
from cubie_flow.kernels.cache import FOLDER_VARIABLE
from cubie_flow.kernels.kernel import BatchSolverConfig, BatchSolverKernel
from cubie_flow.memory import CUDAFactory, bank_conflicts, buffer_registry, padded_stride_bytes

PACKAGE = Path(cubie_flow.__file__).parent
MEMORY = ("shared_memory_elements", "local_memory_elements", "shared_memory_bytes")


def kernel_of(system: OdeSystem, target: str = "cpu", **more: Any) -> BatchSolverKernel:
    options: dict[str, Any] = {"varied": ("rho",), "precision": "float32", "duration": 0.5}
    return BatchSolverKernel(RunSettings(system, **{**options, **more}), BatchSolverConfig(target))


def everyone(factory: CUDAFactory[Any]) -> list[CUDAFactory[Any]]:
    return [factory, *(below for c in factory.children.values() for below in everyone(c))]


def factories() -> list[ast.ClassDef]:
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(
                "CUDAFactory[" in ast.unparse(base) for base in node.bases
            ):
                found.append(node)
    return found


# sizes come from the registry alone -------------------------------------------------------------


def test_no_factory_computes_a_size_in_bytes() -> None:
    """Arithmetic with item sizes is in ``cubie_flow/memory``, and where addresses are emitted."""
    classes = factories()
    assert {"BatchSolverKernel", "SingleIntegratorRun", "IVPLoop"} <= {c.name for c in classes}
    for node in classes:
        for operation in ast.walk(node):
            if isinstance(operation, ast.BinOp):
                said = ast.unparse(operation)
                assert not re.search(r"itemsize|nbytes", said), f"{node.name}: {said}"


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_larger_buffer_is_larger_everywhere(lorenz: OdeSystem, precision: str) -> None:
    """Perturb one declaration: the kernel, the arenas and the layout follow, whoever owns it."""
    kernel = kernel_of(lorenz, precision=precision)
    kernel.update(state_location="shared", derivative_location="shared")
    width = np.dtype(precision).itemsize
    for owner in everyone(kernel.run):
        for entry in [e for e in kernel.layout.entries if e.belongs_to(owner)]:
            before = kernel.arena_bytes, kernel.shared_memory_elements, kernel.local_memory_elements
            buffer_registry.register(
                entry.name, owner, entry.elements + 3, entry.location, entry.dtype,
                entry.persistent,
            )  # fmt: skip
            after = kernel.arena_bytes, kernel.shared_memory_elements, kernel.local_memory_elements
            grown = [b - a for a, b in zip(before[0], after[0], strict=True)]
            where = {"shared": 0, "local": 1, "persistent": 2}.get(entry.arena)
            assert grown == [3 * width if i == where else 0 for i in range(3)], entry.name
            assert after[1] - before[1] == 3 * (where == 0)
            assert after[2] - before[2] == 3 * (where in (1, 2))


# the kernel and its child -----------------------------------------------------------------------


def test_sizes_are_asked_of_the_child_allocators(
    lorenz: OdeSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = kernel_of(lorenz)
    asked: list[tuple[object, object]] = []
    original = type(buffer_registry).get_child_allocators

    def spy(self: Any, owner: object, child: object, name: str | None = None) -> Any:
        asked.append((owner, child))
        return original(self, owner, child, name)

    monkeypatch.setattr(type(buffer_registry), "get_child_allocators", spy)
    for number, name in enumerate(MEMORY):
        asked.clear()
        getattr(kernel, name)
        assert asked, f"{name} does not ask ({number})"
        assert all(owner is kernel and child is kernel.run for owner, child in asked)


def test_the_config_holds_compile_time_fields_only() -> None:
    names = [field.name for field in attrs.fields(BatchSolverConfig)]
    assert not [name for name in names if "memory" in name or "elements" in name]
    assert not [name for name in names if "tol" in name or name.startswith("dt")]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        BatchSolverConfig().target = "cpu"  # type: ignore[misc]


def test_the_run_has_no_memory_properties() -> None:
    found = [name for name in dir(SingleIntegratorRun) if "memory" in name or "bytes" in name]
    assert found == []
    assert not [name for name in dir(SingleIntegratorRun) if "elements" in name]


def test_sizes_are_computed_at_each_access_and_follow_a_location(lorenz: OdeSystem) -> None:
    kernel = kernel_of(lorenz)
    for name in MEMORY:
        assert isinstance(getattr(BatchSolverKernel, name), property)
    for _ in range(2):
        kernel.update(stage_increments_location="shared")
        assert kernel.shared_memory_elements == 21
        assert kernel.shared_memory_bytes == 84
        kernel.update(stage_increments_location="local")
        assert kernel.shared_memory_elements == kernel.shared_memory_bytes == 0
    # Also where the registry is told directly, without the kernel.
    buffer_registry.update(kernel.run.step, {"stage_increments_location": "shared"})
    assert kernel.shared_memory_elements == 21


def test_update_recognises_locations_at_any_depth(lorenz: OdeSystem) -> None:
    kernel = kernel_of(lorenz, sampling=True, saved=("x", "energy"), summarised=("x",))
    depths = set()
    for entry in kernel.layout.entries:
        depths.add(entry.path.count("."))
        key = f"{entry.name}_location"
        assert kernel.update(**{key: "shared"}) == {key}
        (moved,) = [e for e in kernel.layout.entries if e.name == entry.name]
        assert moved.location == moved.arena == "shared"
    assert depths == {2}
    assert kernel.local_memory_elements == 0
    direct = kernel.run.update(state_location="local")
    assert direct == {"state_location"}
    assert kernel.local_memory_elements == 3


# what is rebuilt --------------------------------------------------------------------------------


def test_a_location_rebuilds_exactly_what_depends_on_it(lorenz: OdeSystem) -> None:
    kernel = kernel_of(lorenz)
    products = {id(f): f.product for f in everyone(kernel)}
    kernel.update(stage_state_location="shared")
    dependent = {id(kernel), id(kernel.run), id(kernel.run.step)}
    for factory in everyone(kernel):
        same = factory.product is products[id(factory)]
        # The step's product is its tableau, one object whatever the layout.
        assert same == (id(factory) not in dependent or factory is kernel.run.step), factory


def test_nothing_is_rebuilt_for_nothing_or_for_a_tolerance(lorenz: OdeSystem) -> None:
    kernel = kernel_of(lorenz)
    built = kernel.product
    kernel.update()
    kernel.update(precision="float32", target="cpu", state_location="local")
    for rtol in (1e-3, 1e-5):
        kernel.solve({"rho": np.array([5.0, 20.0])}, 2, Tolerances(rtol=rtol, atol=rtol))
    kernel.update(state_location="shared")
    kernel.update(state_location="local")
    kernel.update(stage_state_location="register")
    assert kernel.product.program is not None
    kernel.update(block_size=kernel.settings.block_size)
    unchanged = kernel.product
    kernel.update(state_location="local")
    assert kernel.product is unchanged
    assert set(built.figures) == {"code", "constant"}


# padding ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_stride_is_odd_in_words_and_free_of_conflicts(
    lorenz: OdeSystem, precision: str
) -> None:
    word = np.dtype(precision).itemsize
    kernel = kernel_of(lorenz, precision=precision)
    assert kernel.shared_memory_bytes == 0
    names = [entry.name for entry in kernel.layout.entries]
    saved = 0
    for name in names:
        kernel.update(**{f"{name}_location": "shared"})
        stride, bare = kernel.shared_memory_bytes, kernel.layout.bytes("shared")
        assert stride % word == 0
        assert stride // word % 2 == 1
        assert stride == padded_stride_bytes(bare, word)
        assert bank_conflicts(stride, word) == 1
        saved += bank_conflicts(bare, word) > 1
        fit = kernel.fit_block(48 * 1024)
        assert fit.shared_bytes == fit.block_size * stride
    assert saved, "some unpadded stride must have conflicts, or padding would pay nothing"


# shared memory is real --------------------------------------------------------------------------


def accesses(kernel: BatchSolverKernel) -> tuple[int, int]:
    ptx = kernel.compile_cuda("sm_90").ptx
    return tuple(len(re.findall(rf"\b{op}(?:\.\w+)*?\.shared\b", ptx)) for op in ("ld", "st"))  # type: ignore[return-value]


def test_every_shared_buffer_is_loaded_and_stored(lorenz: OdeSystem) -> None:
    options: dict[str, Any] = {"saved": ("x", "energy"), "summarised": ("x",), "sampling": True}
    kernel = kernel_of(lorenz, "cuda", **options)
    assert accesses(kernel) == (0, 0)
    entries = kernel.layout.entries
    assert len(entries) >= 12
    for entry in entries:
        kernel.update(**{f"{entry.name}_location": "shared"})
        loads, stores = accesses(kernel)
        assert loads > 0, entry.name
        assert stores > 0, entry.name
        kernel.update(**{f"{entry.name}_location": entry.location})


def test_the_count_would_notice_a_buffer_that_is_not_in_shared_memory(
    lorenz: OdeSystem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Broken on purpose: with plain accesses the compiler keeps the buffer in registers."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))  # or what was compiled unbroken is found
    monkeypatch.setattr(emit.BlockEmitter, "_keep_shared", lambda *_: None)
    kernel = kernel_of(lorenz, "cuda")
    kernel.update(proposed_state_location="shared")
    assert 0 in accesses(kernel)
