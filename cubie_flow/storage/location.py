"""The location of a store: a folder, a URL, or a group of either; small enough for a worker."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from attrs import evolve, field, frozen

from cubie_flow.credentials import redacted, refuse_credentials, remember
from cubie_flow.errors import FlowError
from cubie_flow.process.safe_files import LinkRefused
from cubie_flow.registries import CLIENTS

if TYPE_CHECKING:
    from cubie_flow.storage.client import StorageClient

FSSPEC, ICECHUNK = "fsspec", "icechunk"
#: Where the part of a client's message begins that is meant for its developers.
_FOR_DEVELOPERS = re.compile(r"\s*Debug source:|[\s|]*\bcontext:")


def _address(given: str | Path) -> str:
    text = str(given)
    refuse_credentials(text)
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    # A worker may have another current folder.
    return text.rstrip("/") if "://" in text else str(Path(text).expanduser().absolute())


def _group_path(text: str) -> str:
    group = text.strip("/")
    if set(group.split("/")) & {".", ".."}:
        raise FlowError(f"'{text}' is not a group of a store: it leads out of it")
    return group


@frozen
class Location:
    """The location of a store.

    Attributes
    ----------
    address
        A path, or a URL that fsspec or obstore knows; ``file://`` is a path.
    group
        Path of the group in the Zarr hierarchy; empty for the root.
    client
        Storage client of a URL; ``icechunk`` serves paths as well.
    options
        Options of the client; they may hold credentials and are never shown.
    """

    address: str = field(converter=_address)
    group: str = field(default="", converter=_group_path)
    client: str = FSSPEC
    options: Mapping[str, Any] = field(factory=dict, repr=False)

    def __attrs_post_init__(self) -> None:
        remember(self.options)

    @classmethod
    def of(cls, given: str | Path | Location) -> Location:
        """Return the location of a path or URL; a location is returned as it is."""
        return given if isinstance(given, Location) else cls(given)

    @property
    def folder(self) -> Path | None:
        """The folder of Zarr files; None for a URL or a repository."""
        return None if self._client.repository else self.path

    @property
    def path(self) -> Path | None:
        """The path on this machine; None for a URL."""
        return None if "://" in self.address else Path(self.address)

    @property
    def alone(self) -> str:
        """Why no second process may write here; empty if others may."""
        return self._client.alone(self)

    @property
    def lockable(self) -> bool:
        """Whether a lock can be written next to the store."""
        return self._client.lockable(self)

    @property
    def _client(self) -> StorageClient:
        client: StorageClient = CLIENTS.get(self.client)()
        return client

    @property
    def name(self) -> str:
        """Folder or URL with the group, for messages."""
        return redacted(f"{self.address}/{self.group}" if self.group else self.address)

    def child(self, group: str) -> Location:
        """Return the location of a group inside this one."""
        return evolve(self, group=f"{self.group}/{group}" if self.group else group)

    def store(self, *, read_only: bool = False, create: bool = False) -> Any:
        """Return the zarr store at `address`, of which this location is the group `group`.

        Parameters
        ----------
        read_only : bool
        create : bool
            Whether to create a repository that does not exist; files and objects need no creation.

        Raises
        ------
        FlowError
            If the client's package is missing, or the client does not serve the URL.
        FileNotFoundError
            If there is no repository.
        """
        if self.folder is not None:
            from cubie_flow.storage.backends import FolderStore

            return FolderStore(self.folder, read_only=read_only)
        client = self._client
        try:
            return client.open_store(self, read_only=read_only, create=create)
        except ImportError as error:
            raise FlowError(
                f"'{self.name}' needs a package that is not installed ({redacted(str(error))}); "
                f"pip install 'cubie-flow[{client.extra}]' brings {client.provides}"
            ) from None
        except (FlowError, FileNotFoundError):
            raise
        except Exception as error:
            raise self.error(error, "opened") from None

    def holds_something(self) -> bool:
        """Return whether there is anything at this location.

        Raises
        ------
        FlowError
            If the client cannot answer.
        """
        if self.folder is not None:
            path = self.folder / self.group
            return path.exists() and (not path.is_dir() or any(path.iterdir()))
        from cubie_flow.storage.zarr_adapter import sync

        try:
            return not sync(self.store().is_empty(self.group))
        except FlowError:
            raise
        except FileNotFoundError:
            # There is no repository, but a path may hold something else.
            return self.path is not None and self.path.exists() and any(self.path.iterdir())
        except Exception as error:
            raise self.error(error, "opened") from None

    def require_empty(self) -> None:
        """Refuse a location that is in use.

        Raises
        ------
        FlowError
            If there is anything at this location.
        """
        if self.holds_something():
            raise FlowError(
                f"'{self.name}' already exists and is not empty; results are never overwritten "
                "silently, so resume it, choose another place, or set storage.overwrite=true"
            )

    def delete(self) -> None:
        """Delete the store at this location.

        Raises
        ------
        FlowError
            If there is something else than a store, or it cannot be deleted.
        """
        import zarr

        from cubie_flow.storage.zarr_adapter import sync

        if not self.holds_something():
            return
        try:
            try:
                store = self.store()
                zarr.open_group(
                    store, path=self.group, mode="r", use_consolidated=False, zarr_format=3
                )
            except LinkRefused:
                raise
            except (FileNotFoundError, ValueError, NotADirectoryError):
                raise FlowError(
                    f"'{self.name}' holds something that is not a results store, so it is not "
                    "overwritten; delete it yourself, or choose another place"
                ) from None
            if self.folder is not None:
                shutil.rmtree(self.folder / self.group)
            else:
                sync(store.delete_dir(self.group))
                # A versioned store keeps it in its history.
                store.commit("deleted, to be overwritten")
        except FlowError:
            raise
        except Exception as error:
            raise self.error(error, "deleted") from None

    def size(self) -> int:
        """Return the number of bytes stored at this location."""
        if self.folder is not None:
            files = (self.folder / self.group).rglob("*")
            return sum(file.stat().st_size for file in files if file.is_file())
        from cubie_flow.storage.zarr_adapter import sync

        try:
            return int(sync(self.store().getsize_prefix(self.group)))
        except Exception as error:
            raise self.error(error, "read") from None

    def error(self, error: Exception, done: str = "written") -> FlowError:
        """Return an error of the system or the network as one sentence, without credentials.

        Parameters
        ----------
        error : Exception
        done : str
            Participle of what failed, such as ``written`` or ``read``.
        """
        message = _FOR_DEVELOPERS.split(str(error), maxsplit=1)[0]
        reason = getattr(error, "strerror", None) or " ".join(message.split()[:40])
        if not isinstance(error, OSError) or not reason:
            reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        kept = "; complete shards are kept, so the study can be resumed once the cause is removed"
        tail = kept if done == "written" else ""
        return FlowError(redacted(f"'{self.name}' cannot be {done}: {reason}{tail}"))
