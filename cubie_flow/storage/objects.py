"""One small object at a URL, written on a condition: what a lock is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

#: Protocols of fsspec whose conditions are the server's own.
S3 = ("s3", "s3a")


#: What stands for the content of an object, in the words of its client.
Tag = Any


class Changed(Exception):
    """The object is no longer what it was."""


class SmallObject(Protocol):
    """An object that several processes may want; a tag stands for its content."""

    def create(self, data: bytes) -> Tag:
        """Write it if it is not there and return its tag.

        Raises
        ------
        FileExistsError
            If it is there.
        """
        ...

    def replace(self, data: bytes, tag: Tag) -> Tag:
        """Write it if it is still that of `tag` and return its new tag.

        Raises
        ------
        Changed
            If it is another one, or gone.
        """
        ...

    def read(self) -> tuple[bytes, Tag]:
        """Return it and its tag.

        Raises
        ------
        FileNotFoundError
            If it is not there.
        """
        ...

    def delete(self) -> None:
        """Delete it."""
        ...


def small_object(address: str, client: str, options: Mapping[str, Any]) -> SmallObject:
    """Return the object at a URL; what the client raises is not caught.

    Icechunk has no way to write one; obstore, which comes with it, writes it beside a repository
    in S3.
    """
    if client == "icechunk":
        return _Obstore(address, _as_obstore(options))
    kinds: dict[str, type[_Fsspec | _Obstore]] = {"fsspec": _Fsspec, "obstore": _Obstore}
    return kinds[client](address, options)


#: Options of icechunk for S3 by their names in obstore.
_RENAMED = {
    "endpoint_url": "endpoint", "anonymous": "skip_signature", "session_token": "session_token",
    "access_key_id": "access_key_id", "secret_access_key": "secret_access_key", "region": "region",
    "requester_pays": "request_payer",
}  # fmt: skip


def _as_obstore(options: Mapping[str, Any]) -> dict[str, Any]:
    found = {_RENAMED[name]: value for name, value in options.items() if name in _RENAMED}
    if options.get("allow_http"):
        found["client_options"] = {"allow_http": True}
    return found


class _Fsspec:
    """By fsspec.

    S3 writes on a condition. What others do with ``mode="create"`` differs (some take no notice),
    so there it is looked just before.
    """

    def __init__(self, address: str, options: Mapping[str, Any]) -> None:
        import fsspec

        options = {"use_listings_cache": False, **options}
        self._files, self._path = fsspec.core.url_to_fs(address, **options)
        self._conditional = not {*S3}.isdisjoint(_protocols(self._files))

    def create(self, data: bytes) -> Tag:
        if self._conditional:
            self._files.pipe_file(self._path, data, mode="create")
        elif self._files.exists(self._path):
            raise FileExistsError(self._path)
        else:
            self._files.pipe_file(self._path, data)
        return self._tag(data)

    def replace(self, data: bytes, tag: Tag) -> Tag:
        try:
            if self._conditional:
                self._files.pipe_file(self._path, data, IfMatch=tag)
            elif self.read()[1] == tag:
                self._files.pipe_file(self._path, data)
            else:
                raise Changed
        except FileNotFoundError:
            raise Changed from None
        except OSError as error:
            if "pre-condition" in str(error).lower():
                raise Changed from None
            raise
        return self._tag(data)

    def read(self) -> tuple[bytes, Tag]:
        # A tag that is older than the content only makes the replacing fail.
        tag = self._files.info(self._path)["ETag"] if self._conditional else ""
        data = bytes(self._files.cat_file(self._path))
        return data, tag or data.decode("latin-1")

    def _tag(self, data: bytes) -> Tag:
        """Return the tag of what was just written."""
        found, tag = self.read()
        if found != data:
            raise Changed
        return tag

    def delete(self) -> None:
        self._files.rm_file(self._path)


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


class _Obstore:
    """By obstore: every condition is the store's own."""

    def __init__(self, address: str, options: Mapping[str, Any]) -> None:
        from obstore.store import from_url

        folder, _, self._name = address.rpartition("/")
        self._store = from_url(folder, **options)

    def create(self, data: bytes) -> Tag:
        from obstore.exceptions import AlreadyExistsError

        try:
            return _known(self._store.put(self._name, data, mode="create"))
        except AlreadyExistsError:
            raise FileExistsError(self._name) from None

    def replace(self, data: bytes, tag: Tag) -> Tag:
        from obstore.exceptions import PreconditionError

        try:
            return _known(self._store.put(self._name, data, mode=tag))
        except (PreconditionError, FileNotFoundError):
            raise Changed from None

    def read(self) -> tuple[bytes, Tag]:
        found = self._store.get(self._name)
        return bytes(found.bytes()), _known(found.meta)

    def delete(self) -> None:
        self._store.delete(self._name)


def _known(told: Mapping[str, Any]) -> Tag:
    """Return what a server goes by: S3 and Azure by the tag, Google by the version."""
    return {name: told[name] for name in ("e_tag", "version") if told[name] is not None}
