"""The metadata of a store in a folder, compared with what its schema promises.

Every array has a file of its own, and the root has a copy of all of them. Before anything is opened
or allocated, both are read within bounds and compared, so that a missing or changed array is
noticed whichever of the two a reader uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from attrs import frozen

from cubie_flow.batches.store_names import AUDIT, CHECKSUMS, MEMORY, RUN, STATUS
from cubie_flow.documents import parse_json, read_json
from cubie_flow.errors import FlowError
from cubie_flow.storage.schema import lacks_status

METADATA = "zarr.json"
#: Attribute of the root that tells a store of several jobs from that of a study.
MARK = "multirun"
#: Bytes of one chunk, unless a single run has more. Chunks have about 2 MB, whole shards 40 MB.
CHUNK_BYTES = 2**28
#: Shards of a study, and rows of its tables.
COUNT = 10**7
#: Attributes of the root that are texts, and those that hold an object in JSON.
TEXTS = ("study", "title", "algorithm", "config", "created", "completed", "device", "numerics")
OBJECTS = ("system", "design", "statuses", "atol", "compare", "drivers", "jobs_ended")
#: Attributes of the root that are lists of texts.
LISTS = ("overrides", "swept")
#: What one array must have in both places.
_SAME = (
    "node_type", "data_type", "shape", "chunk_grid", "chunk_key_encoding", "codecs", "fill_value",
    "dimension_names",
)  # fmt: skip
Node = Mapping[str, Any]


@frozen
class Metadata:
    """The metadata of a group.

    Attributes
    ----------
    attrs : mapping
        Attributes of the group.
    nodes : mapping
        Metadata of every array and group below it that the root lists, by path; empty if it lists
        none.
    """

    attrs: Mapping[str, Any]
    nodes: Mapping[str, Node]


def read_metadata(folder: Path, comparing: bool = True) -> Metadata:
    """Return the metadata of a group of a store, compared with its arrays' own files.

    Parameters
    ----------
    folder : Path
        The folder of the group.
    comparing : bool
        Whether the files of the arrays are read; not where nothing but the root is used.

    Raises
    ------
    FileNotFoundError
        If it has no metadata.
    FlowError
        Naming the file that is missing or damaged.
    """
    root = read_root(folder)
    path, attrs = folder / METADATA, root.get("attributes", {})
    gathered = root.get("consolidated_metadata")
    nodes = gathered.get("metadata") if isinstance(gathered, dict) else gathered
    if nodes is not None and not isinstance(nodes, dict):
        raise _damaged(path, "its consolidated metadata is not a mapping")
    metadata = Metadata(attrs, nodes or {})
    promised = metadata.nodes
    if MARK in attrs:  # its jobs are compared when they are opened
        jobs = {n for n, node in promised.items() if node.get("node_type") == "group"}
        promised = {n: node for n, node in promised.items() if "/" not in n and n not in jobs}
    for name, node in promised.items():
        _check_node(node, path, name)
    if comparing:
        _compare(folder, promised)
    return metadata


def read_root(folder: Path) -> dict[str, Any]:
    """Return the document of a group of a store, whose attributes are of the right types.

    Parameters
    ----------
    folder : Path
        The folder of the group.

    Raises
    ------
    FileNotFoundError
        If it has no metadata.
    FlowError
        If its file is damaged.
    """
    path = folder / METADATA
    root = read_json(path)
    if root.get("node_type") == "array":
        raise FlowError(f"'{folder}' is one Zarr array; a result is the group that holds it")
    attrs = root.get("attributes", {})
    if root.get("node_type") != "group" or not isinstance(attrs, dict):
        raise _damaged(path, "it does not hold the metadata of a group of Zarr 3")
    _check_attributes(attrs, path)
    return root


def _check_attributes(attrs: Mapping[str, Any], path: Path) -> None:
    """Refuse attributes of the root whose type is another than this package writes."""
    for name in attrs.keys() & {*TEXTS, *OBJECTS}:
        if not isinstance(attrs[name], str):
            raise _damaged(path, f"its attribute '{name}' is not a text")
    for name in attrs.keys() & {*OBJECTS}:
        parse_json(attrs[name], f"{path}, attribute '{name}'")
    for name in attrs.keys() & {*LISTS}:
        if not isinstance(attrs[name], list) or not all(isinstance(x, str) for x in attrs[name]):
            raise _damaged(path, f"its attribute '{name}' is not a list of texts")
    for name in attrs:
        if name.startswith("seconds_") and not _is_number(attrs[name]):
            raise _damaged(path, f"its attribute '{name}' is not a number")
    if MARK in attrs and not _is_count(attrs[MARK], 0):
        raise _damaged(path, f"its attribute '{MARK}' is not a number of jobs")


def _compare(folder: Path, promised: Mapping[str, Node]) -> None:
    """Compare the files of arrays and groups with what the root says of them."""
    for name, path in _files(folder, promised):
        try:
            own = read_json(path)
        except FileNotFoundError:
            if name in promised and not _may_lack(name, promised[name]):
                if name == STATUS:
                    raise FlowError(lacks_status(str(folder))) from None
                raise FlowError(
                    f"'{path}' is missing, but the store has an array or group of that name; "
                    "restore it from a copy, or start the study again (xarray.open_zarr reads "
                    "the rest)"
                ) from None
            continue
        _check_node(own, path)
        node = promised.get(name)
        if node is None or _may_lack(name, node):
            continue
        for key in _SAME:
            if own.get(key) == node.get(key) or (key == "shape" and _grown(own, node)):
                continue
            raise _damaged(
                path,
                f"its {key} is {_short(own.get(key))}, but {_short(node.get(key))} in the "
                f"{METADATA} of the store",
            )


def _files(folder: Path, promised: Mapping[str, Node]) -> Iterator[tuple[str, Path]]:
    """Yield the metadata files of a group by name: those promised, and those of its folders."""
    names = dict.fromkeys(promised)
    if not promised:
        found = (path.parent for path in folder.glob(f"*/{METADATA}"))
        names = dict.fromkeys(path.name for path in found)
    for name in list(names) if promised else []:
        if promised[name].get("node_type") == "group":
            below = (folder / name).glob(f"*/{METADATA}")
            names |= dict.fromkeys(f"{name}/{path.parent.name}" for path in below)
    for name in names:
        yield name, folder / name / METADATA


def _may_lack(name: str, node: Node) -> bool:
    """Return whether an array or group is written again while a store is used.

    These are measurements of shards, an audit, and groups that others put there.
    """
    group, inside, _ = name.partition("/")
    if group == MEMORY:
        return bool(inside) and _dims(node) == ("shard",)
    return group == AUDIT or (group != CHECKSUMS and bool(inside))


def _grown(own: Node, node: Node) -> bool:
    """Return whether an array is a longer one, as while a study is made larger."""
    return (
        _dims(node)[:1] in ((RUN,), ("shard",))
        and own["shape"][1:] == node["shape"][1:]
        and own["shape"][0] > node["shape"][0]
    )


def _check_node(node: Any, path: Path, name: str = "") -> None:
    """Refuse metadata of an array or group that nothing may be allocated from."""
    what = f"what it says of '{name}'" if name else "it"
    if not isinstance(node, dict) or not isinstance(node.get("attributes", {}), dict):
        raise _damaged(path, f"{what} is not metadata of Zarr 3")
    if node.get("node_type") == "group":
        return
    shape, chunk, inner = node.get("shape"), _chunk_shape(node), _inner_chunk_shape(node)
    names = node.get("dimension_names")
    sound = (
        isinstance(shape, list)
        and node.get("node_type") == "array"
        and isinstance(node.get("data_type"), str | dict)
        and _is_shape(shape, 0)
        and all(_is_shape(part, 1) and len(part) == len(shape) for part in (chunk, inner))
        and (names is None or (isinstance(names, list) and len(names) == len(shape)))
        and all(isinstance(name, str | None) for name in names or ())
    )
    if not sound:
        raise _damaged(path, f"{what} is not metadata of an array of Zarr 3")
    _check_size(node, chunk, inner, path, what)


def _check_size(node: Node, chunk: list[int], inner: list[int], path: Path, what: str) -> None:
    """Refuse an array whose chunks, shards or rows are larger than any that this package makes."""
    shape, dims = node["shape"], _dims(node)
    along_run = dims[:1] == (RUN,)
    row = 8 * prod(shape[1:]) if along_run else 0
    too_large = (
        8 * prod(inner) > max(CHUNK_BYTES, row)
        or (along_run and inner[1:] != [max(1, length) for length in shape[1:]])
        or (along_run and shape[0] > COUNT * chunk[0])
        or (not along_run and prod(shape) > COUNT * 64)
        or (dims and dims[0] in ("shard", "buffer") and shape[0] > COUNT)
    )
    if too_large:
        sizes = f"shape {_short(shape)} and chunks {_short(inner)}"
        raise _damaged(path, f"{what} has {sizes}, which no store of cubie_flow has")


def _chunk_shape(node: Node) -> Any:
    """Return the shape of a chunk, or of a shard."""
    grid = node.get("chunk_grid")
    configuration = grid.get("configuration") if isinstance(grid, dict) else None
    return configuration.get("chunk_shape") if isinstance(configuration, dict) else None


def _inner_chunk_shape(node: Node) -> Any:
    """Return the shape of a chunk, for sharded arrays of one inside a shard."""
    codecs = node.get("codecs")
    if not isinstance(codecs, list) or not codecs or not all(isinstance(c, dict) for c in codecs):
        return None
    if codecs[0].get("name") != "sharding_indexed":
        return _chunk_shape(node)
    configuration = codecs[0].get("configuration")
    return configuration.get("chunk_shape") if isinstance(configuration, dict) else None


def _dims(node: Node) -> tuple[Any, ...]:
    return tuple(node.get("dimension_names") or ())


def _is_shape(shape: Any, least: int) -> bool:
    return isinstance(shape, list) and all(_is_count(length, least) for length in shape)


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**53


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _damaged(path: Path, reason: str) -> FlowError:
    return FlowError(f"'{path}' is damaged: {reason}; restore it from a copy")
