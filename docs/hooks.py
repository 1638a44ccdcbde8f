"""What the documentation site takes from the repository: generated tables and files outside docs.

A comment in a page asks for a generated part: ``<!-- generate: statuses -->`` is the table of run
statuses, ``<!-- generate: configuration -->`` the reference of all configuration keys. Changelog,
contributor's page, README of the benchmarks and experiments become pages of the site. Links between
pages and files are those of the repository; they are rewritten for the site.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PART = re.compile(r"<!-- generate: (\w+) -->")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
#: Pages whose file is outside docs: address in the site, and file in the repository.
OUTSIDE = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "benchmarks.md": "benchmarks/README.md",
}


def row(*cells: str) -> str:
    """Return one row of a table, with what Markdown would read as markup escaped."""
    safe = (cell.replace("<", "&lt;").replace("|", "\\|") for cell in cells)
    return "| " + " | ".join(safe) + " |"


def statuses() -> str:
    """Return the table of run statuses: code, name, what it means and what to try."""
    from cubie_flow.integrators.status import ENDS

    lines = ["| code | status | what it means | what to try |", "|---|---|---|---|"]
    for name, end in ENDS.items():
        lines.append(row(str(end.code), f"`{name}`", end.meaning, end.remedy))
    return "\n".join(lines)


def configuration() -> str:
    """Return the reference of the configuration: one table per group of keys."""
    from cubie_flow.config.reference import reference

    lines: list[str] = []
    group = None
    for entry in reference():
        head = entry.key.split(".")[0] if "." in entry.key else ""
        if head != group:
            group = head
            lines += ["", f"## `{group}`" if group else "## The study", ""]
            lines += ["| key | default | allowed | what |", "|---|---|---|---|"]
        words = [f"`{word}`: {text}" for word, text in entry.words.items() if text]
        default = "null" if entry.default is None else str(entry.default)
        what = "; ".join([entry.description, *words])
        lines.append(row(f"`{entry.key}`", f"`{default}`", entry.allowed, what))
    return "\n".join(lines)


PARTS: dict[str, Callable[[], str]] = {"statuses": statuses, "configuration": configuration}


def _outside() -> Iterator[tuple[str, Path]]:
    """Yield address and file of each page and picture outside docs."""
    for address, name in OUTSIDE.items():
        yield address, ROOT / name
    for path in sorted((ROOT / "experiments").glob("*/*")):
        if path.name == "README.md" or path.suffix in (".png", ".yaml"):
            yield str(path.relative_to(ROOT)), path
    for path in sorted((ROOT / "benchmarks" / "results").iterdir()):
        yield str(path.relative_to(ROOT)), path


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside docs to the site."""
    for address, path in _outside():
        files.append(File.generated(config, address, abs_src_path=str(path)))
    return files


def address_of(path: str) -> str | None:
    """Return the address in the site of a path in the repository, or None if it has none."""
    addresses = {str(file.relative_to(ROOT)): address for address, file in _outside()}
    if f"{path}/README.md" in addresses:
        return addresses[f"{path}/README.md"]
    if path == "experiments":
        return "experiments.md"
    return addresses.get(path, path[5:] if path.startswith("docs/") else None)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put in the generated parts, and turn links of the repository into links of the site."""
    here = page.file.src_uri
    source = next((str(file.relative_to(ROOT)) for address, file in _outside() if address == here),
                  f"docs/{here}")  # fmt: skip

    def link(found: re.Match[str]) -> str:
        mark, text, target, anchor = found.groups()
        if not target or "://" in target or target.startswith("mailto:"):
            return found[0]
        path = os.path.normpath(os.path.join(os.path.dirname(source), target))
        address = address_of(path)
        if address is None:
            return text if text.startswith("`") else f"{text} (`{path}`)"
        relative = os.path.relpath(address, os.path.dirname(here) or ".")
        return f"{mark}[{text}]({relative}{anchor or ''})"

    def part(found: re.Match[str]) -> str:
        return PARTS[found[1]]()

    blocks = re.split(r"(^```.*?^```$)", PART.sub(part, markdown), flags=re.DOTALL | re.MULTILINE)
    return "".join(block if block.startswith("```") else LINK.sub(link, block) for block in blocks)


def on_post_build(config: MkDocsConfig, **_: Any) -> None:
    """Refuse a page that loads anything from the network."""
    remote = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["']?https?://""")
    for path in Path(config.site_dir).rglob("*.html"):
        if found := remote.search(path.read_text(encoding="utf-8")):
            raise SystemExit(f"{path} loads something from the network: {found[0]}")
