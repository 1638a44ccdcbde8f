"""How a result shows itself in a notebook."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

from cubie_flow.analysis import describe
from cubie_flow.errors import FlowError

if TYPE_CHECKING:
    from xarray import Dataset

#: Dots an inch of the picture, and its width in pixels.
DPI, WIDTH = 60, 480


def described(data: Dataset) -> str:
    """Return a result as HTML: its summary, beside its overview where it has one."""
    from cubie_flow.analysis.pictures import drawer

    told = describe.summary(data)._repr_html_()
    try:
        picture = drawer("overview")(data)
    except FlowError:
        return told
    source = base64.b64encode(picture.png(DPI)).decode("ascii")
    image = (
        f'<img src="data:image/png;base64,{source}" alt="{escape(picture.description)}" '
        f'style="max-width:100%;width:{WIDTH}px">'
    )
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start">'
        f"<div>{told}</div>{image}</div>"
    )
