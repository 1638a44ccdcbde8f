"""What a process that is the command's own may do, and what surrounds it."""

from __future__ import annotations

import gc
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cubie_flow.cli import app
from cubie_flow.process.startup import no_collections, process

ROOT = Path(__file__).parents[2]


def ended(*words: str, shell: str = "", cwd: Path | None = None, **more: str) -> tuple[int, str]:
    """Return the status of a Python process and all that it said; `shell` comes behind it."""
    command = shlex.join((sys.executable, *words))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    found = subprocess.run(
        f"{command} {shell}", shell=True, capture_output=True, text=True, env=environment, cwd=cwd
    )  # fmt: skip
    return found.returncode, found.stdout + found.stderr


RESULTS = "from cubie_flow.analysis.cli import main; raise SystemExit(main())"


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_file_does_not_get_the_number_of_a_closed_stream(streams: str, tmp_path: Path) -> None:
    script = (
        "from cubie_flow.process.streams import open_streams; open_streams(); import os, sys; "
        f"file = open({str(tmp_path / 'data')!r}, 'w'); file.write(str(file.fileno() > 2)); "
        "print('said'); print('complained', file=sys.stderr); os.write(1, b'by another')"
    )
    code, _ = ended("-c", script, shell=streams)
    assert code == 0
    assert (tmp_path / "data").read_text() == "True"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    for words in (("-m", "cubie_flow", "task=doctor"), ("-c", RESULTS, "--help")):
        code, told = ended(*words, shell="> /dev/full", cwd=tmp_path)
        assert code == 1
        assert told.endswith(": standard output cannot be written: No space left on device\n")
        assert told.count("\n") == 1


def test_what_the_encoding_lacks_is_printed_in_another_way(tmp_path: Path) -> None:
    (tmp_path / "größe").mkdir()
    code, told = ended("-c", RESULTS, "ls", "größe", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (code, told) == (0, "no results below 'gr\\xf6\\xdfe'\n")


@pytest.mark.parametrize("words", [("-m", "cubie_flow"), ("-c", RESULTS, "ls")])
def test_python_without_assertions_and_a_folder_that_is_gone_are_refused(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    code, told = ended(*words, cwd=tmp_path, PYTHONOPTIMIZE="1")
    assert code == 1
    assert "PYTHONOPTIMIZE" in told
    assert told.count("\n") == 1
    gone = tmp_path / "gone"
    gone.mkdir()
    script = "import os, sys; os.rmdir(os.getcwd()); os.execv(sys.executable, sys.argv[1:])"
    code, told = ended("-c", script, sys.executable, *words, cwd=gone)
    assert code == 1
    assert "current folder has been deleted" in told
    assert told.count("\n") == 1


def test_a_reader_that_has_gone_is_no_mistake(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(config: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(app, "run_task", run)
    monkeypatch.setattr(app, "silence_stdout", lambda: None)
    assert app.main([]) == 1
    assert capfd.readouterr() == ("", "")


def test_only_a_process_of_its_own_puts_off_garbage_collection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "owned", False)
    with no_collections():
        assert gc.isenabled()
    monkeypatch.setattr(process, "owned", True)
    try:
        with no_collections():
            assert not gc.isenabled()
        assert gc.isenabled()
    finally:
        gc.unfreeze()
