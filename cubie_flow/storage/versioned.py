"""Icechunk: every shard is a commit, with a message, and the store's history stays.

What was written and not committed is not there. Imported where it is used; the package is an
optional extra.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import icechunk
from zarr.storage import WrapperStore

from cubie_flow.errors import FlowError
from cubie_flow.storage.backends import Remote, Timed, let_threads_end

BRANCH = "main"
# Its lines are for those who debug it: one warns of commits of several processes to a disk, which
# are refused here, and they would stand in the way of progress.
icechunk.set_logs_filter("error")
let_threads_end()


class Versioned(Timed, WrapperStore):  # type: ignore[misc]
    """A session of a repository, and the next one after each commit."""

    def __init__(self, repository: icechunk.Repository, name: str) -> None:
        self._repository, self._name = repository, name
        super().__init__(repository.writable_session(BRANCH).store)

    def begin(self) -> None:
        """See what others have committed, and forget what was not."""
        self._store = self._repository.writable_session(BRANCH).store

    def commit(self, message: str) -> None:
        """Make what was written since `begin` part of the store, all of it or nothing.

        Raises
        ------
        FlowError
            If another process has written the same meanwhile.
        """
        session = self._store.session
        if not session.has_uncommitted_changes:
            return
        try:
            # Others may have committed other shards.
            session.commit(message, rebase_with=icechunk.ConflictDetector())
        except (icechunk.ConflictError, icechunk.RebaseFailedError):
            raise FlowError(
                f"'{self._name}' was written by another process meanwhile, so nothing of this "
                "commit is kept; wait for the other one, then resume"
            ) from None

    def with_read_only(self, read_only: bool = False) -> Any:
        """Return what is there now."""
        return Remote(self._store.with_read_only(read_only))

    @property
    def supports_consolidated_metadata(self) -> bool:
        """Every snapshot has all metadata in one place already."""
        return False


def open_versioned(
    address: str, options: Mapping[str, Any], name: str, *, read_only: bool, create: bool
) -> Any:
    """Return the zarr store of a repository; what the client raises is not caught.

    Parameters
    ----------
    address : str
        A path or URL.
    options : mapping
        Keywords of the icechunk function that opens such an address.
    name : str
        The same, to be read.
    read_only : bool
        Then it is what was committed last, and stays so.
    create : bool
        Whether it is made if it is not there.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    """
    storage = _storage(address, options)
    if icechunk.Repository.exists(storage):
        repository = icechunk.Repository.open(storage)
    elif create:
        repository = icechunk.Repository.create(storage)
    else:
        raise FileNotFoundError(name)
    if read_only:
        return Remote(repository.readonly_session(BRANCH).store)
    return Versioned(repository, name)


def _storage(address: str, options: Mapping[str, Any]) -> Any:
    if "://" not in address:
        if options:
            raise FlowError(f"storage.options is given, but '{address}' is a folder and has none")
        return icechunk.local_filesystem_storage(str(Path(address)))
    parts = urlsplit(address)
    place = {"bucket": parts.netloc, "prefix": parts.path.strip("/")}
    protocol = parts.scheme
    try:
        if protocol == "s3":
            return icechunk.s3_storage(**place, **options)
        if protocol in ("gs", "gcs"):
            return icechunk.gcs_storage(**place, **options)
        if protocol in ("az", "abfs"):
            place["container"] = place.pop("bucket")
            return icechunk.azure_storage(**place, **options)
    except TypeError as error:
        known = ", ".join(sorted(options))
        raise FlowError(
            f"storage.options ({known}) are not those of icechunk for {protocol}:// ({error})"
        ) from None
    raise FlowError(
        f"storage.client=icechunk keeps no {protocol}://; use a folder, s3://, gs:// or az://"
    )
