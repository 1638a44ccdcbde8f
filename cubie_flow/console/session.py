"""The right of a command to write a run: the lock, lease and log that it holds together."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cubie_flow.console.logs import logged
from cubie_flow.console.paths import location_text, resume_command
from cubie_flow.process.signals import Stopped
from cubie_flow.storage import Location, leased, locked, noted_location
from cubie_flow.storage.folders import LOG, delete_partials
from cubie_flow.storage.identity import FolderIdentity
from cubie_flow.storage.lease import Lease

log = logging.getLogger("cubie_flow")


class Session:
    """The hold of one command on a run. `open_session` makes it.

    Attributes
    ----------
    folder : Path
        The locked folder.
    location : Location
        The store, once `begin_writing` was called.
    lease : Lease
        The right to write the store, from then on.
    """

    location: Location
    lease: Lease

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self._again: Sequence[str] = ()

    @property
    def resume_command(self) -> str:
        """The command that resumes the run."""
        return resume_command(self.folder, self._again)

    def begin_writing(
        self, location: Location, seconds: float | None, again: Sequence[str] = ()
    ) -> None:
        """Log into the folder and lease the store until the session ends.

        Parameters
        ----------
        location
            The store.
        seconds
            ``storage.lease``: time without renewal after which others may take the store over;
            None for no lease.
        again
            Words that a command which resumes the run needs in addition to its folder.

        Raises
        ------
        FlowError
            If another process writes the store.
        """
        self._stack.enter_context(logged(self.folder / LOG))
        self.lease = self._stack.enter_context(leased(location, seconds))
        self.lease.folder = FolderIdentity.of(self.folder)
        delete_partials(self.folder)
        self.location = location
        self._again = again

    @contextmanager
    def resumable(self) -> Iterator[None]:
        """Print how to resume the run if it is stopped in this block."""
        try:
            yield
        except (KeyboardInterrupt, Stopped):
            if noted_location(self.folder) is not None:
                print(
                    f"what was solved is kept in {location_text(self.location)}; "
                    f"{self.resume_command} does the rest",
                    file=sys.stderr,
                )
            raise


@contextmanager
def open_session(folder: Path) -> Iterator[Session]:
    """Lock the folder of a run, so that one process checks and then writes it.

    Raises
    ------
    FlowError
        If another process holds the folder.
    """
    with ExitStack() as stack:
        stack.enter_context(locked(folder))
        yield Session(folder, stack)


def print_and_log(summary: str) -> None:
    """Print the summary of a finished run, and write it to the log."""
    log.info("finished\n%s", summary)
    print(summary, flush=True)
