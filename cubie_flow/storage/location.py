"""Where a store is: a folder, a URL, or a group of either; small enough to be sent to a worker."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from attrs import evolve, field, frozen

from cubie_flow.credentials import redacted, refuse_credentials, remember
from cubie_flow.errors import FlowError

ICECHUNK = "icechunk"
NEEDS = "what s3:// needs"


_FOR_DEVELOPERS = re.compile(r"\s*Debug source:|[\s|]*\bcontext:")


def _address(given: str | Path) -> str:
    text = str(given)
    refuse_credentials(text)
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    # A worker may have another current folder.
    return text.rstrip("/") if "://" in text else str(Path(text).expanduser().absolute())


def _group_path(text: str) -> str:
    return text.strip("/")


@frozen
class Location:
    """Where a store is.

    Attributes
    ----------
    address
        A path, or a URL that fsspec or obstore knows; ``file://`` is a path.
    group
        Path of the group inside the Zarr hierarchy; empty for the root.
    client
        Of a URL: ``fsspec`` or ``obstore``; ``icechunk`` is that of a path as well.
    options
        Of the client; they may hold credentials and are never shown.
    """

    address: str = field(converter=_address)
    group: str = field(default="", converter=_group_path)
    client: str = "fsspec"
    options: Mapping[str, Any] = field(factory=dict, repr=False)

    def __attrs_post_init__(self) -> None:
        remember(self.options)

    @classmethod
    def of(cls, given: str | Path | Location) -> Location:
        """Return a location: itself, or that of a path or URL."""
        return given if isinstance(given, Location) else cls(given)

    @property
    def folder(self) -> Path | None:
        """The folder of Zarr files, if it is one on this machine."""
        return None if self.client == ICECHUNK else self.path

    @property
    def path(self) -> Path | None:
        """Where it is on this machine, if it is there."""
        return None if "://" in self.address else Path(self.address)

    @property
    def alone(self) -> str:
        """Why no other process may write here beside this one; empty where others may."""
        if self.address.startswith("memory:"):
            return "is in the memory of this process"
        if self.client == ICECHUNK and self.path is not None:
            return "is an Icechunk repository on a disk, which one process at a time may write"
        return ""

    @property
    def name(self) -> str:
        """Folder or URL with the group, to be read."""
        return redacted(f"{self.address}/{self.group}" if self.group else self.address)

    def child(self, group: str) -> Location:
        """Return the location of a group inside this one."""
        return evolve(self, group=f"{self.group}/{group}" if self.group else group)

    def store(self, *, read_only: bool = False, create: bool = False) -> Any:
        """Return a zarr store for any reader of zarr; what is here is its group `group`.

        Parameters
        ----------
        read_only : bool
        create : bool
            Whether to make what Icechunk needs to be there; files and objects need nothing.

        Raises
        ------
        FlowError
            If the URL's package is missing, or the URL is none that the client knows.
        FileNotFoundError
            If there is no Icechunk repository.
        """
        from cubie_flow.storage.backends import Folder, open_remote

        if self.folder is not None:
            return Folder(self.folder, read_only=read_only)
        try:
            if self.client == ICECHUNK:
                from cubie_flow.storage.versioned import open_versioned

                how = {"read_only": read_only, "create": create}
                return open_versioned(self.address, self.options, self.name, **how)
            return open_remote(self.address, self.client, self.options, read_only=read_only)
        except ImportError as error:
            extra = ICECHUNK if self.client == ICECHUNK else "remote"
            raise FlowError(
                f"'{self.name}' needs a package that is not installed ({redacted(str(error))}); "
                f"pip install 'cubie-flow[{extra}]' brings {'it' if extra == ICECHUNK else NEEDS}"
            ) from None
        except (FlowError, FileNotFoundError):
            raise
        except Exception as error:
            raise self.error(error, "opened") from None

    def holds_something(self) -> bool:
        """Return whether there is anything at this place.

        Raises
        ------
        FlowError
            If it cannot be asked.
        """
        if self.folder is not None:
            place = self.folder / self.group
            return place.exists() and (not place.is_dir() or any(place.iterdir()))
        from zarr.core.sync import sync

        try:
            return not sync(self.store().is_empty(self.group))
        except FlowError:
            raise
        except FileNotFoundError:
            # No repository; of a disk it is known whether there is something else.
            return self.path is not None and self.path.exists() and any(self.path.iterdir())
        except Exception as error:
            raise self.error(error, "opened") from None

    def refuse_what_is_there(self) -> None:
        """Refuse a place that is taken.

        Raises
        ------
        FlowError
            If there is anything.
        """
        if self.holds_something():
            raise FlowError(
                f"'{self.name}' already exists and is not empty; results are never overwritten "
                "silently, so resume it, choose another place, or say storage.overwrite=true"
            )

    def delete(self) -> None:
        """Delete the store that is here.

        Raises
        ------
        FlowError
            If what is here is no store, or cannot be deleted.
        """
        import zarr
        from zarr.core.sync import sync

        if not self.holds_something():
            return
        try:
            try:
                store = self.store()
                zarr.open_group(
                    store, path=self.group, mode="r", use_consolidated=False, zarr_format=3
                )
            except (FileNotFoundError, ValueError, NotADirectoryError):
                raise FlowError(
                    f"'{self.name}' holds something that is no results store, so it is not "
                    "overwritten; delete it yourself, or choose another place"
                ) from None
            if self.folder is not None:
                shutil.rmtree(self.folder / self.group)
            else:
                sync(store.delete_dir(self.group))
                # A versioned store keeps it in its history.
                store.commit("deleted, to be made anew")
        except FlowError:
            raise
        except Exception as error:
            raise self.error(error, "deleted") from None

    def size(self) -> int:
        """Return the bytes stored here."""
        if self.folder is not None:
            files = (self.folder / self.group).rglob("*")
            return sum(file.stat().st_size for file in files if file.is_file())
        from zarr.core.sync import sync

        try:
            return int(sync(self.store().getsize_prefix(self.group)))
        except Exception as error:
            raise self.error(error, "read") from None

    def error(self, error: Exception, done: str = "written") -> FlowError:
        """Return an error of the system or the network in one sentence, without credentials."""
        # What clients tell their developers comes after what they tell their users.
        told = _FOR_DEVELOPERS.split(str(error), maxsplit=1)[0]
        reason = getattr(error, "strerror", None) or " ".join(told.split()[:40])
        if not isinstance(error, OSError) or not reason:
            reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        kept = "; shards already complete are kept, so the study can be resumed once this is mended"
        tail = kept if done == "written" else ""
        return FlowError(redacted(f"'{self.name}' cannot be {done}: {reason}{tail}"))
