"""An S3-compatible server of this process, for tests of stores at URLs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

SECRET, KEY = "hunter22/secret+==", "AKIAHUNTER22"


@contextmanager
def bucket(name: str) -> Iterator[str]:
    """Yield the endpoint of a server that has one empty bucket; skip without its packages."""
    moto = pytest.importorskip("moto.server", reason="needs moto's server")
    boto3 = pytest.importorskip("boto3", reason="needs boto3")
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    endpoint = f"http://127.0.0.1:{running.get_host_and_port()[1]}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=name)
    yield endpoint
    running.stop()


def options_of(client: str, endpoint: str, secret: str = SECRET) -> dict[str, Any]:
    """Return the options with which a client opens the server."""
    if client == "fsspec":
        return {"endpoint_url": endpoint, "key": KEY, "secret": secret}
    if client == "icechunk":
        return {
            "endpoint_url": endpoint, "access_key_id": KEY, "secret_access_key": secret,
            "region": "us-east-1", "allow_http": True, "force_path_style": True,
        }  # fmt: skip
    return {
        "endpoint": endpoint, "access_key_id": KEY, "secret_access_key": secret,
        "region": "us-east-1", "client_options": {"allow_http": True},
    }  # fmt: skip


def words_of(client: str, endpoint: str, secret: str = SECRET) -> list[str]:
    """Return the same as words of a command line."""
    given = options_of(client, endpoint, secret)
    flat = {k: v for k, v in given.items() if not isinstance(v, dict | bool)}
    flat.update({k: "true" for k, v in given.items() if v is True})
    flat.update({f"client_options.{k}": "true" for k in given.get("client_options", {})})
    return [
        f"storage.client={client}",
        *(f"storage.options.{name}={value}" for name, value in flat.items()),
    ]
