"""A task has one name in the code, the config and the check of the config."""

import re

import pytest

from cubie_flow.cli.app import main
from cubie_flow.cli.tasks import TASKS
from cubie_flow.config.schema import shipped


def test_every_task_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert {path.stem for path in (shipped("conf") / "task").glob("*.yaml")} == set(TASKS)
    assert main(["task.name=unknown"]) == 1
    allowed = re.search(r"must be one of ([\w, ]+)", capsys.readouterr().err)
    assert allowed is not None
    assert set(allowed[1].split(", ")) == set(TASKS)


@pytest.mark.parametrize("task", sorted(TASKS.keys() - {"plan", "run"}))
def test_a_dry_run_of_another_task_changes_nothing(
    task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"task={task}", "dry_run=true"]) == 1
    assert capsys.readouterr().err == f"cubie-flow: dry_run=true is for task=run, not task={task}\n"
