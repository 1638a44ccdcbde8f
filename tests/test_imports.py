"""Imports run downward only, and importing the package is cheap."""

import ast
import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "cubie_flow"
#: What each room imports of the others, from the lowest floor up: a room imports only rooms above
#: it in this table. Modules of the top level are rooms of their own; every room may import errors
#: and allowed values.
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "allowed_values": set(),
    "credentials": set(),
    "process": set(),
    "documents": {"process"},
    "registries": set(),
    "expressions": set(),
    "maths": {"expressions"},
    "memory": set(),
    "batches": {"process"},
    "systems": {"batches", "expressions", "maths", "process"},
    "integrators": {"batches", "expressions", "memory", "systems"},
    "kernels": {"expressions", "integrators", "memory", "process", "registries"},
    "storage": {"batches", "credentials", "documents", "process", "registries"},
    "engines": {"process", "registries", "storage"},
    "console": {"credentials", "engines", "process", "storage"},
    "study": {
        "batches", "console", "engines", "expressions", "integrators", "kernels", "memory",
        "process", "registries", "storage", "systems",
    },
    "api": {
        "batches", "console", "integrators", "kernels", "process", "storage", "study", "systems",
    },
    "config": {
        "batches", "credentials", "documents", "engines", "process", "registries", "storage",
        "study", "systems",
    },
    "placement": {
        "config", "console", "engines", "integrators", "kernels", "memory", "process", "storage",
        "study", "systems",
    },
    "analysis": {
        "api", "batches", "config", "console", "documents", "engines", "integrators", "process",
        "storage", "study", "systems",
    },
    "multirun": {
        "analysis", "batches", "config", "console", "credentials", "engines", "integrators",
        "placement", "process", "storage", "study", "systems",
    },
    "cli": {
        "analysis", "config", "console", "credentials", "documents", "kernels", "multirun",
        "placement", "process", "storage", "study",
    },
    "__main__": {"cli", "process"},
}  # fmt: skip
FILES = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py" and path.relative_to(PACKAGE).parts[0] != "experiments"
)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downward(path: Path) -> None:
    assert room(path) in ROOMS, "a new room: say here what it may import"
    allowed = ROOMS[room(path)] | {room(path), "errors", "allowed_values"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [node.module or ""]
            if node.module == "cubie_flow":
                names = [f"cubie_flow.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "cubie_flow" and len(parts) > 1:
                assert parts[1] in allowed, f"line {node.lineno} imports {name}"  # type: ignore[attr-defined]


def test_the_table_of_rooms_runs_downward() -> None:
    order = list(ROOMS)
    for name, used in ROOMS.items():
        assert used <= set(order[: order.index(name)]), name


def needed(path: Path) -> set[str]:
    """Return the modules of the package that one imports, when it is loaded or later."""
    found: set[str] = set()
    left: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while left:
        node = left.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            left += node.orelse
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inside & MODULES.keys() or {str(node.module)}
        else:
            left += ast.iter_child_nodes(node)
    return found & MODULES.keys()


MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in FILES
}


def test_no_modules_import_each_other() -> None:
    graph = {name: needed(path) for name, path in MODULES.items()}
    # What reads a model makes an OdeSystem, which offers the reading as its own constructors.
    graph["cubie_flow.systems.system"] -= {
        "cubie_flow.systems.files",
        "cubie_flow.systems.model_reader",
    }
    TopologicalSorter(graph).prepare()


def loaded(code: str) -> set[str]:
    """Return the modules that are loaded after `code` ran in a fresh interpreter."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


HEAVY = {"numpy", "numba", "llvmlite", "scipy", "pandas", "xarray", "zarr", "matplotlib", "rich"}


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded("import cubie_flow") & {*HEAVY, "hydra", "attrs"}


def test_the_application_loads_nothing_heavy_before_it_needs_it() -> None:
    code = "import contextlib, io, cubie_flow.cli.app as app\n"
    code += "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
    code += "    app.main(['--help'])"
    assert not loaded(code) & HEAVY


def test_public_names_are_what_they_say() -> None:
    code = (
        "from cubie_flow import ControllerChoice, OdeSystem, solve, maths\n"
        "import cubie_flow\n"
        "assert callable(cubie_flow.solve) and solve is cubie_flow.solve\n"
        "assert callable(maths.exp)"
    )
    assert "matplotlib" not in loaded(code)


def test_the_results_command_loads_nothing_heavy_before_it_needs_it() -> None:
    code = "import contextlib, io, cubie_flow.analysis.cli as cli\n"
    code += "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
    code += "    cli.main(['--help'])"
    assert not loaded(code) & {*HEAVY, "hydra"}
