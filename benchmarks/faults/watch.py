"""One command in a forked process whose every file, socket and program is watched.

The parent has imported everything and has run nothing, so a fork starts within milliseconds. The
child declares an audit hook, runs the command in its own process and reports what it did.
"""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from attrs import asdict, define, field

#: Seconds after which a command counts as one that never ends.
PATIENCE = 60.0
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
_PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
#: Functions that change a file system, with the positions of the paths that they change and of the
#: handles of folders that these are relative to.
_CHANGES = {
    "os.rename": ((0, 2), (1, 3)), "os.remove": ((0, 1),), "os.mkdir": ((0, 2),),
    "os.rmdir": ((0, 1),), "os.link": ((1, 3),), "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),), "shutil.rmtree": ((0, None),), "os.chmod": ((0, 2),),
}  # fmt: skip
#: Those that change what a link leads to, and not the link.
_FOLLOWING = ("os.truncate", "os.chmod")


@define
class Outcome:
    """What a command did.

    Attributes
    ----------
    code : int
        Exit status; -9 if it had to be killed.
    stdout, stderr : str
    seconds : float
        By the clock.
    cpu : float
        Seconds of the processor, its own and of programs that it started.
    memory : int
        Bytes by which its peak exceeded what the parent held.
    contacts : list of str
        Network addresses that it asked for.
    writes : list of str
        Paths outside of the allowed folders that it changed.
    programs : list of str
        Programs that it started.
    crash : str
        Traceback that left the command, empty without one.
    """

    code: int = 0
    stdout: str = ""
    stderr: str = ""
    seconds: float = 0.0
    cpu: float = 0.0
    memory: int = 0
    contacts: list[str] = field(factory=list)
    writes: list[str] = field(factory=list)
    programs: list[str] = field(factory=list)
    crash: str = ""

    @property
    def traceback(self) -> bool:
        """Whether a user would have seen a traceback."""
        return bool(self.crash) or "Traceback (most recent call last)" in self.stderr

    @property
    def text(self) -> str:
        """What it did that it should not, and what it printed."""
        return "\n".join([*self.contacts, *self.writes, *self.programs, self.crash, self.stderr])

    @property
    def fault(self) -> str:
        """What must never happen and did; empty if nothing."""
        for text, happened in (
            ("contact", self.contacts), ("write outside", self.writes),
            ("traceback", self.traceback), ("hang", self.code == -signal.SIGKILL),
            ("killed", self.code < 0),
        ):  # fmt: skip
            if happened:
                return text
        return ""


class _Audit:
    """The audit hook of a child: it collects what the command must not do."""

    def __init__(self, allowed: Sequence[Path]) -> None:
        self.allowed = [str(path.resolve()).rstrip("/") for path in allowed]
        self.contacts: list[str] = []
        self.writes: list[str] = []
        self.programs: list[str] = []
        self.silent = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.silent:
            return
        if event in _NETWORK:
            address = args[1] if event in ("socket.connect", "socket.sendto") else args[0]
            self.contacts.append(f"{event} {address!r}")
        elif event in _PROGRAMS:
            self.programs.append(f"{event} {args[0]!r}")
        elif event == "open":
            path, mode, flags = args
            writing = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if isinstance(path, str | bytes | os.PathLike) and (writing or "w" in str(mode)):
                self._change(path, event, follow=not flags & os.O_NOFOLLOW)
        elif event in _CHANGES:
            for position, handle in _CHANGES[event]:
                above = -1 if handle is None or len(args) <= handle else args[handle]
                self._change(args[position], event, above, event in _FOLLOWING)

    def _change(self, path: Any, event: str, above: int = -1, follow: bool = True) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        self.silent = True
        try:
            name = os.fsdecode(path)
            if above >= 0:
                name = os.path.join(os.readlink(f"/proc/self/fd/{above}"), name)
            # Links are followed: where the bytes end counts, not what the name says.
            head, last = os.path.split(name)
            real = os.path.realpath(name) if follow else os.path.realpath(head) + os.sep + last
        finally:
            self.silent = False
        if not any(real == one or real.startswith(one + os.sep) for one in self.allowed):
            self.writes.append(f"{event} {real}")


def watched(
    command: Callable[[], int | None],
    folder: Path,
    allowed: Sequence[Path],
    patience: float = PATIENCE,
) -> Outcome:
    """Run a command in a fork and return what it did.

    Parameters
    ----------
    command : callable
        Returns an exit status, or raises SystemExit.
    folder : Path
        Current folder of the command.
    allowed : sequence of Path
        Folders in which the command may write.
    patience : float
        Seconds after which it is killed.
    """
    read, write = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(read)
        _child(command, folder, allowed, write)
    os.close(write)
    text = _received(read, began + patience)
    os.close(read)
    if text is None:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    outcome = Outcome(**json.loads(text)) if text else Outcome()
    outcome.seconds = time.monotonic() - began
    outcome.cpu = usage.ru_utime + usage.ru_stime
    if text is None or os.WIFSIGNALED(status):
        outcome.code = -os.WTERMSIG(status)
    return outcome


def _received(pipe: int, until: float) -> str | None:
    """Return what comes through a pipe until its end, None if it takes too long."""
    import select

    parts: list[bytes] = []
    while True:
        ready, _, _ = select.select([pipe], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return None
        part = os.read(pipe, 1 << 16)
        if not part:
            return b"".join(parts).decode()
        parts.append(part)


def _child(
    command: Callable[[], int | None], folder: Path, allowed: Sequence[Path], pipe: int
) -> None:
    outcome, audit = Outcome(), _Audit([*allowed, Path("/dev")])
    stdout, stderr = io.StringIO(), io.StringIO()
    os.chdir(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.addaudithook(audit)
    try:
        with redirect_stdout(stdout), redirect_stderr(stderr):
            outcome.code = int(command() or 0)
    except SystemExit as error:
        outcome.code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            stderr.write(error.code)
    except BaseException:
        outcome.crash, outcome.code = traceback.format_exc()[-2000:], 70
    audit.silent = True
    outcome.memory = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    outcome.stdout, outcome.stderr = stdout.getvalue()[-20_000:], stderr.getvalue()[-20_000:]
    outcome.contacts, outcome.writes = audit.contacts[:5], audit.writes[:5]
    outcome.programs = audit.programs[:5]
    with os.fdopen(pipe, "w") as file:
        file.write(json.dumps(asdict(outcome)))
    os._exit(0)
