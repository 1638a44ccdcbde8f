"""Damages: every file that describes a study, damaged in many ways, and every command on it."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

from benchmarks.faults.study import RUN, STORE

Damage = Callable[[Path, random.Random], None]


@frozen
class Trial:
    """One damage of one file.

    Parameters
    ----------
    file : Path
        Relative to the folder of a trial.
    name : str
        Of the damage.
    """

    file: Path
    name: str

    def apply(self, folder: Path, chance: random.Random) -> None:
        """Damage the study in a folder."""
        DAMAGES[self.name](folder / self.file, chance)


def _text(text: str) -> Damage:
    def write(path: Path, chance: random.Random) -> None:
        path.write_text(text, encoding="utf-8")

    return write


def _missing(path: Path, chance: random.Random) -> None:
    path.unlink()


def _truncated(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(max(1, path.stat().st_size)))


def _flipped(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(3):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(data))


def _unreadable(path: Path, chance: random.Random) -> None:
    data = path.read_bytes()
    path.unlink()
    path.mkdir()  # nobody reads a folder, not even root
    (path / "inside").write_bytes(data)


def _linked(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def _wrong_types(path: Path, chance: random.Random) -> None:
    """Replace a value somewhere in a JSON or YAML document by one of another type."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        _flipped(path, chance)
        return
    places = list(_places(document))
    holder, key = chance.choice(places)
    holder[key] = chance.choice([None, [], {}, -1, "", "text", 1e300, True, 10**30, [[[]]]])
    path.write_text(json.dumps(document), encoding="utf-8")


def _removed_key(path: Path, chance: random.Random) -> None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        _truncated(path, chance)
        return
    places = [place for place in _places(document) if isinstance(place[0], dict)]
    holder, key = chance.choice(places)
    del holder[key]
    path.write_text(json.dumps(document), encoding="utf-8")


def _huge(path: Path, chance: random.Random) -> None:
    """Let an array be immense, or a number in the document."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        path.write_text("a: " + "9" * 300 + "\n", encoding="utf-8")
        return
    if isinstance(document, dict) and "shape" in document:
        document["shape"] = [10**12 for _ in document["shape"]]
        grid = document.get("chunk_grid", {}).get("configuration", {})
        if chance.random() < 0.5 and grid:
            grid["chunk_shape"] = [10**11 for _ in document["shape"]]
    else:
        places = [p for p in _places(document) if isinstance(p[0][p[1]], int | float | str)]
        holder, key = chance.choice(places)
        holder[key] = int("9" * 300)
    path.write_text(json.dumps(document), encoding="utf-8")


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place of a document as its holder and key."""
    items = document.items() if isinstance(document, dict) else (
        enumerate(document) if isinstance(document, list) else ()
    )  # fmt: skip
    for key, value in list(items):
        yield document, key
        yield from _places(value)


DAMAGES: dict[str, Damage] = {
    "missing": _missing,
    "empty": _text(""),
    "null": _text("null"),
    "list": _text("[]"),
    "number": _text("9" * 400),
    "nested": _text("[" * 100_000),
    "aliases": _text("a: &a [x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(9))
                     + "c: &c [*c]\n"),
    "truncated": _truncated,
    "flipped": _flipped,
    "folder": _unreadable,
    "linked": _linked,
    "wrong type": _wrong_types,
    "removed key": _removed_key,
    "huge": _huge,
}  # fmt: skip


def files(folder: Path) -> list[Path]:
    """Return every file of a study, those that describe it first, relative to the trial."""
    found = [path.relative_to(folder) for path in sorted((folder / RUN).rglob("*"))
             if path.is_file()]  # fmt: skip
    metadata = [path for path in found if path.suffix in (".json", ".yaml", ".log")]
    return metadata + [path for path in found if path not in metadata]


def trials(folder: Path, seed: int) -> Iterator[Trial]:
    """Yield damages without end: all of the metadata first, then again with other choices."""
    chance = random.Random(seed)
    known = files(folder)
    metadata = [path for path in known if path.suffix in (".json", ".yaml")]
    every = [Trial(path, name) for path in metadata
             for name in DAMAGES if name != "gone"]  # fmt: skip
    chunks = [path for path in known if path not in metadata]
    while True:
        chance.shuffle(every)
        for number, trial in enumerate(every):
            yield trial
            if number % 8 == 0:
                yield Trial(chance.choice(chunks), chance.choice(["missing", "truncated",
                            "flipped", "empty", "folder", "linked"]))  # fmt: skip
            if number % 40 == 0:
                yield Trial(STORE / chance.choice(["time", "checksums", "x", "rho", "memory",
                                                   "config"]), "gone")  # fmt: skip


def _gone(path: Path, chance: random.Random) -> None:
    shutil.rmtree(path)


DAMAGES["gone"] = _gone
