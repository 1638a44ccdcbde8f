"""What all tests of stores at URLs need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from object_server import bucket


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The endpoint of an S3-compatible server, new for every module."""
    with bucket("results") as endpoint:
        yield endpoint
