"""Disks that fail: full, without inodes, read-only, gone, renamed, and calls that return errors.

File systems in memory are mounted where this process may do so. Elsewhere the calls that make files
return the error in the process of the study.
"""

from __future__ import annotations

import errno
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.faults.study import RUN, digests, whole_words
from benchmarks.faults.trial import Bench, Result, Running, Trial, finished, judge, start

#: Errors of calls that make files.
ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.EMFILE)
_WRITING = os.O_WRONLY | os.O_RDWR


def _mount(*words: str) -> bool:
    done = subprocess.run(["mount", *words], capture_output=True, check=False)
    return done.returncode == 0


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


@contextmanager
def _disk(folder: Path, options: str) -> Iterator[bool]:
    """Mount a file system in memory; yield whether that was allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = os.name == "posix" and _mount("-t", "tmpfs", "-o", options, "none", str(folder))
    try:
        yield mounted
    finally:
        if mounted:
            _unmount(folder)


def _limited(option: str, least: int, most: int, unit: int, message: str) -> Trial:
    """Return a trial on a disk with too little of something, which then becomes enough."""

    def trial(bench: Bench, chance: random.Random) -> Result:
        folder = bench.trials / "study"
        size = unit * chance.randrange(least, most)
        with _disk(folder, f"{option}={size}") as mounted:
            if not mounted:
                return Result("not tried: mounting is not allowed")
            running = start(whole_words(), folder)
            text = running.end()
            fault = judge(running.code, text)
            if not fault and running.code and message not in text:
                fault = "the sentence does not say what is used up"
            if fault or not running.code:
                return Result("it was enough", fault, text)
            # The commands that read, on a disk where nothing can be written.
            reading = start(("verify=" + str(RUN),), folder)
            printed = reading.end()
            if "does the rest" not in printed and (fault := judge(reading.code, printed)):
                return Result("", fault, printed)
            _mount("-o", f"remount,{option}=100000000", str(folder))
            return finished(bench, folder)

    return trial


def _read_only(bench: Bench, chance: random.Random) -> Result:
    """Let a disk become read-only while a study is written."""
    folder = bench.trials / "study"
    with _disk(folder, "size=100m") as mounted:
        if not mounted:
            return Result("not tried: mounting is not allowed")
        running = start(whole_words(), folder)
        running.wait_for(chance.randrange(bench.changes))
        # It is busy while a file is open for writing.
        while not _mount("-o", "remount,ro", str(folder)) and running.code is None:
            if os.waitid(os.P_PID, running.child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
        text = running.end()
        fault = judge(running.code, text)
        if not fault and running.code and "read-only" not in text.lower():
            fault = "the sentence does not say that the disk is read-only"
        _mount("-o", "remount,rw", str(folder))
        return Result("", fault, text) if fault else finished(bench, folder)


def _gone(bench: Bench, chance: random.Random) -> Result:
    """Take a disk away while a study is written to it, and bring it back."""
    folder, backing = bench.trials / "study", bench.trials / "backing"
    disk = folder / RUN.parent
    disk.mkdir(parents=True)
    with _disk(backing, "size=100m") as mounted:
        if not mounted or not _mount("--bind", str(backing), str(disk)):
            return Result("not tried: mounting is not allowed")
        running = start(whole_words(), folder)
        running.wait_for(chance.randrange(bench.changes))
        _unmount(disk)
        text = running.end()
        left = list(disk.iterdir())
        fault = judge(running.code, text)
        if not fault and left and not running.code:
            fault = ""  # it had not begun, so it made its folder on the disk below
        elif not fault and left:
            fault = "written below the disk"
        if fault:
            return Result("", fault, text)
        if left:
            return Result("begun on the disk below")
        _mount("--bind", str(backing), str(disk))
        try:
            return finished(bench, folder)
        finally:
            _unmount(disk)


def _renamed(bench: Bench, chance: random.Random) -> Result:
    """Rename the folder of a run while it is written."""
    folder = bench.trials / "study"
    folder.mkdir()
    running = start(whole_words(), folder)
    running.wait_for(chance.randrange(3, bench.changes))
    moved = folder / "moved"
    try:
        os.rename(folder / RUN, moved)
    except FileNotFoundError:
        running.end()
        return Result("not made yet", judge(running.code, ""))
    text = running.end()
    fault = judge(running.code, text)
    if not fault and (folder / RUN).exists() and list((folder / RUN).rglob("*")):
        fault = "written to the old path"
    if fault:
        return Result("", fault, text)
    os.makedirs((folder / RUN).parent, exist_ok=True)
    if (folder / RUN).exists():
        (folder / RUN).rmdir()
    os.rename(moved, folder / RUN)
    return finished(bench, folder)


def failing(number: int, code: int, forever: bool) -> Callable[[], None]:
    """Return what lets the calls that make files fail in a process, after some of them.

    Parameters
    ----------
    number : int
        Calls that still work.
    code : int
        The error, of `errno`.
    forever : bool
        Whether all later calls fail too.
    """

    def prepare() -> None:
        calls = 0

        def counted() -> None:
            nonlocal calls
            calls += 1
            if calls > number and (forever or calls == number + 1):
                raise OSError(code, os.strerror(code))

        opened, made = os.open, os.mkdir

        def failing_open(path: Any, flags: int, *more: Any, **options: Any) -> int:
            if flags & _WRITING:
                counted()
            return opened(path, flags, *more, **options)

        def failing_mkdir(path: Any, *more: Any, **options: Any) -> None:
            counted()
            made(path, *more, **options)

        os.open, os.mkdir = failing_open, failing_mkdir

    return prepare


def _injected(bench: Bench, chance: random.Random) -> Result:
    """Let calls that make files fail, once or from then on."""
    folder = bench.trials / "study"
    folder.mkdir()
    code = chance.choice(ERRORS)
    prepare = failing(chance.randrange(120), code, forever=chance.random() < 0.7)
    running: Running = start(whole_words(), folder, prepare)
    text = running.end()
    fault = judge(running.code, text)
    return (
        Result("", fault, f"{errno.errorcode[code]}\n{text}") if fault else finished(bench, folder)
    )


def _healthy_store_read_only(bench: Bench, chance: random.Random) -> Result:
    """Use every command on a good study of a disk that is read-only."""
    from benchmarks.faults.study import commands, copy
    from benchmarks.faults.watch import watched

    folder = bench.trials / "study"
    with _disk(folder, "size=100m") as mounted:
        if not mounted:
            return Result("not tried: mounting is not allowed")
        copy(bench.whole / RUN, folder / RUN)
        _mount("-o", "remount,ro", str(folder))
        right = digests(folder / RUN / "results.zarr")
        name, run = chance.choice(list(commands().items()))
        outcome = watched(run, folder, [folder, Path("/")])
        if fault := outcome.fault:
            return Result("", fault, f"{name}\n{outcome.text}")
        changed = digests(folder / RUN / "results.zarr") != right
        return Result(f"{name} {'worked' if outcome.code == 0 else 'refused'}",
                      "wrong bytes" if changed else "")  # fmt: skip


TRIALS: dict[str, Trial] = {
    "a disk without inodes": _limited("nr_inodes", 3, 150, 1, "No space left"),
    "a full disk": _limited("size", 2, 110, 4096, "No space left"),
    "a disk that becomes read-only": _read_only,
    "a disk that is unmounted": _gone,
    "a folder that is renamed": _renamed,
    "a call that fails": _injected,
    "a study on a read-only disk": _healthy_store_read_only,
}  # fmt: skip
