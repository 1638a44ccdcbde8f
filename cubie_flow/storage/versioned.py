"""Repositories of Icechunk: every shard is a commit with a message, and the history is kept.

Uncommitted writes are lost. The module needs the optional package icechunk (written for 1.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import icechunk
from zarr.storage import WrapperStore

from cubie_flow.errors import FlowError
from cubie_flow.process.safe_files import refuse_links_below
from cubie_flow.storage.backends import RemoteStore, TimedStore, let_threads_end

BRANCH = "main"
# Its log is for its developers and would interrupt the progress display. One line warns of several
# processes that commit to a disk, which is refused here.
icechunk.set_logs_filter("error")
let_threads_end()


class VersionedStore(TimedStore, WrapperStore):  # type: ignore[misc]
    """The current session of a repository; each transaction opens a new one.

    Parameters
    ----------
    repository : icechunk.Repository
    name : str
        Name of the store in messages.
    """

    def __init__(self, repository: icechunk.Repository, name: str) -> None:
        self._repository, self._name = repository, name
        super().__init__(repository.writable_session(BRANCH).store)

    def begin(self) -> None:
        """Load the commits of others, and drop uncommitted writes."""
        self._store = self._repository.writable_session(BRANCH).store

    def commit(self, message: str) -> None:
        """Commit everything that was written since `begin`, or nothing.

        Raises
        ------
        FlowError
            If another process has written the same chunks meanwhile.
        """
        session = self._store.session
        if not session.has_uncommitted_changes:
            return
        try:
            # Others may have committed other shards.
            session.commit(message, rebase_with=icechunk.ConflictDetector())
        except (icechunk.ConflictError, icechunk.RebaseFailedError):
            raise FlowError(
                f"'{self._name}' was written by another process meanwhile, so this commit was "
                "dropped; wait for the other process, then resume"
            ) from None

    def with_read_only(self, read_only: bool = False) -> Any:
        """Return the state of this moment."""
        return RemoteStore(self._store.with_read_only(read_only))

    @property
    def supports_consolidated_metadata(self) -> bool:
        """False: a snapshot keeps all metadata in one place anyway."""
        return False


def open_versioned(
    address: str, options: Mapping[str, Any], name: str, *, read_only: bool, create: bool
) -> Any:
    """Return the zarr store of a repository; exceptions of icechunk are not caught.

    Parameters
    ----------
    address : str
        A path or URL.
    options : mapping
        Keyword arguments of the icechunk function for such an address.
    name : str
        Name of the store in messages.
    read_only : bool
        Whether to open the last commit, which then does not change.
    create : bool
        Whether to create a repository that does not exist.

    Raises
    ------
    FileNotFoundError
        If the repository does not exist.
    FlowError
        If the address or an option is not one of icechunk.
    """
    storage = _storage(address, options)
    if icechunk.Repository.exists(storage):
        repository = icechunk.Repository.open(storage)
    elif create:
        repository = icechunk.Repository.create(storage)
    else:
        raise FileNotFoundError(name)
    if read_only:
        return RemoteStore(repository.readonly_session(BRANCH).store)
    return VersionedStore(repository, name)


def _storage(address: str, options: Mapping[str, Any]) -> Any:
    if "://" not in address:
        if options:
            raise FlowError(f"storage.options is given, but '{address}' is a folder and has none")
        refuse_links_below(Path(address))
        return icechunk.local_filesystem_storage(str(Path(address)))
    parts = urlsplit(address)
    root = {"bucket": parts.netloc, "prefix": parts.path.strip("/")}
    protocol = parts.scheme
    try:
        if protocol == "s3":
            return icechunk.s3_storage(**root, **options)
        if protocol in ("gs", "gcs"):
            return icechunk.gcs_storage(**root, **options)
        if protocol in ("az", "abfs"):
            root["container"] = root.pop("bucket")
            return icechunk.azure_storage(**root, **options)
    except TypeError as error:
        known = ", ".join(sorted(options))
        raise FlowError(
            f"storage.options ({known}) are not those of icechunk for {protocol}:// ({error})"
        ) from None
    raise FlowError(
        f"storage.client=icechunk keeps no {protocol}://; use a folder, s3://, gs:// or az://"
    )
