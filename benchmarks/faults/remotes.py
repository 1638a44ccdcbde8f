"""Servers of objects that stop answering while a study writes to them, and answer again later.

The server is moto's, in a process of its own that is stopped by a signal.
"""

from __future__ import annotations

import importlib.util
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.faults.study import RUN, whole_words
from benchmarks.faults.trial import Bench, Result, Running, Trial, judge, start

#: Seconds after which a trial takes a server for stopped, in place of minutes.
PATIENCE = 3.0
_BUCKET, _KEY = "results", "harness"
_SERVER = """
import sys, time
import boto3, moto.server
server = moto.server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
boto3.client("s3", endpoint_url=url, aws_access_key_id="harness", aws_secret_access_key="harness",
             region_name="us-east-1").create_bucket(Bucket="results")
print(url, flush=True)
time.sleep(3600)
"""


@contextmanager
def _server() -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.communicate()


def _words(endpoint: str) -> list[str]:
    return [
        f"storage.url=s3://{_BUCKET}/study.zarr", f"storage.options.endpoint_url={endpoint}",
        f"storage.options.key={_KEY}", f"storage.options.secret={_KEY}",
    ]  # fmt: skip


def _impatient() -> None:
    from cubie_flow.storage import backends, lease

    backends.PATIENCE = lease.PATIENCE = PATIENCE


def _digests(endpoint: str) -> dict[str, str]:
    """Return the digests of the arrays at the URL, in a process of their own."""
    program = (
        "import hashlib, json, sys, numpy as np, zarr\n"
        "group = zarr.open_group(sys.argv[1], mode='r', use_consolidated=False,\n"
        "    storage_options=json.loads(sys.argv[2]))\n"
        "print(json.dumps({n: hashlib.sha256(np.ascontiguousarray(a[...]).tobytes()).hexdigest()\n"
        "    for n, a in sorted(group.arrays())}))"
    )
    options = {"endpoint_url": endpoint, "key": _KEY, "secret": _KEY}
    done = subprocess.run(
        [sys.executable, "-c", program, f"s3://{_BUCKET}/study.zarr", json.dumps(options)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _stopped(pause: bool) -> Trial:
    """Return a trial in which the server stops, for good or for a moment."""

    def trial(bench: Bench, chance: random.Random) -> Result:
        if not all(map(importlib.util.find_spec, ("moto", "boto3", "s3fs"))):
            return Result("not tried: needs moto, boto3 and s3fs")
        folder = bench.trials / "study"
        folder.mkdir()
        with _server() as (server, endpoint):
            words = _words(endpoint)
            running: Running = start([*whole_words(), *words], folder, _impatient)
            time.sleep(chance.uniform(0.1, 3.0))
            server.send_signal(signal.SIGSTOP)
            if pause:
                time.sleep(chance.uniform(0.1, 0.6 * PATIENCE))
                server.send_signal(signal.SIGCONT)
            began = time.monotonic()
            text = running.end()
            fault = judge(running.code, text)
            if not fault and running.code and time.monotonic() - began > 10 * PATIENCE:
                fault = "no sentence in time"
            if fault:
                return Result("", fault, text)
            server.send_signal(signal.SIGCONT)
            return _finished(bench, folder, endpoint, running.code == 0)

    return trial


def _finished(bench: Bench, folder: Path, endpoint: str, complete: bool) -> Result:
    """Resume or begin the study, and return whether it has the right bytes."""
    words = _words(endpoint)
    text = ""
    if not complete:
        time.sleep(0.5)
        begun = (folder / RUN / "location.json").exists()
        again = [f"resume={RUN}", *words] if begun else [*whole_words(), *words]
        again = again if begun else [*again, "storage.overwrite=true", "confirm=true"]
        running = start(again, folder)
        text = running.end()
        if fault := judge(running.code, text) or ("not resumed" if running.code else ""):
            return Result("", fault, text)
    if _digests(endpoint) != bench.right:
        return Result("", "wrong bytes", text)
    return Result("it went on" if complete else "the same bytes")


TRIALS: dict[str, Trial] = {
    "a server that stops": _stopped(pause=False),
    "a server that pauses": _stopped(pause=True),
}
