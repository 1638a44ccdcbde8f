"""The examples in the docstrings of the most used functions run and print what they say."""

from __future__ import annotations

import doctest
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cubie_flow import OdeSystem, open_results, solve
from cubie_flow.analysis.accessor import FlowAccessor
from cubie_flow.analysis.compare import compare
from cubie_flow.analysis.export import export
from cubie_flow.batches import make_design
from cubie_flow.study.run import run_study

FUNCTIONS: tuple[Callable[..., Any], ...] = (
    solve,
    run_study,
    OdeSystem.from_equations,
    OdeSystem.from_function,
    OdeSystem.from_mapping,
    OdeSystem.from_file,
    OdeSystem.with_values,
    OdeSystem.to_file,
    make_design,
    open_results,
    FlowAccessor.sel_runs,
    FlowAccessor.failed,
    FlowAccessor.unfold,
    FlowAccessor.rerun,
    FlowAccessor.summary,
    FlowAccessor.config,
    FlowAccessor.buffers,
    FlowAccessor.shards,
    FlowAccessor.save,
    FlowAccessor.audit,
    compare,
    export,
)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__qualname__)
def test_the_example_of(
    function: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # examples write files
    text = inspect.getdoc(function) or ""
    assert "Examples\n--------" in text
    example = doctest.DocTestParser().get_doctest(text, {}, function.__qualname__, None, 0)
    report: list[str] = []
    results = doctest.DocTestRunner().run(example, out=report.append)
    assert results.attempted > 1
    assert not results.failed, "".join(report)
