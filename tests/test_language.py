"""Plain technical English: words of the old private dialect do not come back, sentences are short.

Words are looked for in comments, docstrings, messages, configuration and documentation; the length
of sentences is that of the pages of documentation.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: A pattern, and what to write instead.
DIALECT = {
    r"\b(told|said)\b": "name the thing, or use 'reported', 'printed', 'given'",
    r"(?<!there )\b(is|are|was|were) no (?!longer|more)": "'is not a', 'are not'",
    r"\b(one|once|twice|times|bytes|seconds?|runs?|steps?) an? "
    r"(lane|run|shard|job|step|thread|block|variable|core|call|stage|worker|file|row|buffer|"
    r"study|second|trajectory|model|process|folder|machine|GPU|warp|event|state)\b": "'per'",
    r"\bbeside\b": "'next to', 'in addition to', 'compared with'",
    r"\b(came|comes|come) to\b": "'amounts to', 'resulted in', 'reached'",
    r"\b(dearest|dearer|dear)\b": "'most expensive'",
    r"\bwithout a word\b": "'without reporting a result'",
    r"\bhardly\b": "'probably not', 'rarely'",
    r"\banew\b": "'again', 'from the start'",
    r"\b(deaf|mute|park(ed)?|seats?|leaps?|leaping)\b": "the technical term",
    r"\b(lie|lies|lay)\b": "'is', 'is placed'",
    r"\bto be had\b": "'available'",
    r"\bwhat (it|they|is|was|were|are) (told|said|to be|left)\b": "name the thing",
    r"\bof (its|their|his|her)'s\b": "the plain genitive",
    r"\bways? out\b": "'what to do instead'",
    r"\bspeaks? of\b|\bhears?\b|\bheard\b": "the technical term",
    r"\bthat (is|are) there\b|\bnot there\b": "'exists', 'is missing'",
    r"\bgone through\b|\bput right\b|\bmended\b": "'processed', 'corrected'",
}
WORDS = {re.compile(pattern, re.IGNORECASE): advice for pattern, advice in DIALECT.items()}
CODE = sorted(path for folder in ("cubie_flow", "benchmarks", "experiments")
              for path in (ROOT / folder).rglob("*.py"))  # fmt: skip
TEXTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"),
     *(ROOT / "benchmarks").glob("*.md"), *(ROOT / "conf").rglob("*.yaml"),
     *(ROOT / "experiments").rglob("*.md"), *(ROOT / "experiments").rglob("*.yaml")]
)  # fmt: skip

#: Pages of documentation, and the mean number of words per sentence that they stay below.
PAGES = [path for path in TEXTS if path.suffix == ".md" and "experiments" not in path.parts]
MOST_WORDS = 20


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file that are for readers, with their numbers."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        for number, line in enumerate(text.splitlines(), 1):
            yield number, line
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING) or token.type == FSTRING:
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line


FSTRING = getattr(tokenize, "FSTRING_MIDDLE", -1)


def dialect(path: Path) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: '{found[0]}': write {advice}"
        for number, line in prose(path)
        for pattern, advice in WORDS.items()
        if (found := pattern.search(line))
    ]


def sentences(markdown: str) -> list[list[str]]:
    """Return the words of each sentence of a page, without code blocks, tables and headings.

    A code span or a link counts as one word; an item of a list ends a sentence.
    """
    text = re.sub(r"^(```|~~~).*?^\1$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"`[^`]+`", "code", text)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    parts = []
    for line in text.splitlines():
        if re.match(r"    (?! *[-*]|\d+\.)\S|\||#", line):
            parts.append("\n\n")
        elif re.match(r" *(?:[-*]|\d+\.|:) ", line) or not line.strip():
            parts.append("\n\n" + re.sub(r"^ *(?:[-*]|\d+\.|:) ", "", line))
        else:
            parts.append(" " + line.strip())
    found = re.split(r"(?<=[.?!])[)\"'*]*\s+|\n\n", "".join(parts))
    return [words for one in found if (words := re.findall(r"[\w'/%.-]*\w[\w'/%-]*", one))]


def mean_length(path: Path) -> float:
    """Return the mean number of words per sentence of a page."""
    lengths = [len(words) for words in sentences(path.read_text(encoding="utf-8"))]
    return sum(lengths) / max(1, len(lengths))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sentences_are_short(path: Path) -> None:
    mean = mean_length(path)
    assert mean < MOST_WORDS, f"{mean:.1f} words per sentence; cut the long ones"


@pytest.mark.parametrize("path", [*CODE, *TEXTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_dialect(path: Path) -> None:
    assert not dialect(path)


def remarks(path: Path) -> list[str]:
    """Return what to rewrite in a file."""
    found = dialect(path)
    if path in PAGES and (mean := mean_length(path)) >= MOST_WORDS:
        found.append(f"{path.relative_to(ROOT)}: {mean:.1f} words per sentence")
    return found


if __name__ == "__main__":
    import sys

    for name in sys.argv[1:]:
        path = (ROOT / name).resolve()
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.suffix in (".py", ".md", ".yaml"):
                for remark in remarks(file):
                    print(remark)
