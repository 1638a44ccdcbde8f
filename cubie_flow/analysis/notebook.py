"""A result as HTML, for notebooks."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

from cubie_flow.analysis import describe
from cubie_flow.errors import FlowError

if TYPE_CHECKING:
    from xarray import Dataset

#: Dots per inch of the picture, and its width in pixels.
DPI, WIDTH = 60, 480


def to_html(data: Dataset) -> str:
    """Return the summary of a result and, if it can be drawn, its overview picture."""
    from cubie_flow.analysis.pictures import drawer

    summary = describe.summary(data)._repr_html_()
    try:
        kind = "placements" if "placement" in data.sizes else "overview"
        picture = drawer(kind)(data)
    except FlowError:
        return summary
    source = base64.b64encode(picture.png(DPI)).decode("ascii")
    image = (
        f'<img src="data:image/png;base64,{source}" alt="{escape(picture.description)}" '
        f'style="max-width:100%;width:{WIDTH}px">'
    )
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start">'
        f"<div>{summary}</div>{image}</div>"
    )
