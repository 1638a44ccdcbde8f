"""Whether a path still leads to the folder that it led to when it was opened."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from cubie_flow.errors import FlowError


@frozen
class FolderIdentity:
    """A folder as its disk knows it.

    Attributes
    ----------
    path : Path
    numbers : tuple of int
        Device and inode of the folder.
    """

    path: Path
    numbers: tuple[int, int]

    @classmethod
    def of(cls, path: Path) -> FolderIdentity:
        """Return the identity of the folder at a path."""
        found = path.stat()
        return cls(path, (found.st_dev, found.st_ino))

    def check(self) -> None:
        """Refuse to go on if the path leads elsewhere, so that nothing is solved into nothing.

        Raises
        ------
        FlowError
            If the folder was moved, replaced or deleted, or its disk is gone.
        """
        try:
            now = self.of(self.path).numbers
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            if now == self.numbers:
                return
            reason = "another folder is there now"
        raise FlowError(
            f"'{self.path}' is no longer the folder that the study writes ({reason}): it was "
            "moved or deleted, or its disk is gone; complete shards are kept in it, so "
            "resume=FOLDER with its present place does the rest"
        )
