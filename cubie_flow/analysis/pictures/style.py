"""What all pictures share: colours, labels with units, and the figure class."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cubie_flow.errors import FlowError
from cubie_flow.process.safe_files import write_file
from cubie_flow.process.startup import process

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from xarray import DataArray

# From the palette of M. Okabe and K. Ito, which readers with any colour vision can distinguish;
# without its yellow, which is too faint on white paper.
BLUE, RED, GREEN, ORANGE, SKY, PINK, BLACK, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#000000", "#999999",
)  # fmt: skip
COLOURS = (BLUE, RED, GREEN, ORANGE, SKY, PINK, BLACK)
MARKERS, LINES = ("o", "s", "^", "D", "v"), ("-", "--", ":", "-.")
#: A colour map with uniform steps of lightness, and the colour of missing values.
MAP, MISSING = "viridis", "#DDDDDD"
WIDTH, DPI = 8.0, 120
SMALL, LARGE = 8, 11
if process.owned and Path("matplotlibrc").is_file():
    # Matplotlib reads it in the current folder first, which may be a stranger's. It could have
    # texts set by LaTeX, which is a program.
    mpl.rcdefaults()


class Picture(Figure):  # type: ignore[misc]
    """A matplotlib figure that needs no display.

    Parameters
    ----------
    width, height : float
        Inches.

    Attributes
    ----------
    description : str
        What the picture shows, for those who do not see it.
    """

    description: str = ""

    def __init__(self, width: float = WIDTH, height: float = 6.0) -> None:
        super().__init__(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(self)

    def headed(self, text: str) -> None:
        """Set the title of the whole picture."""
        self.suptitle(text, fontsize=LARGE)

    def save(self, target: str | Path, dpi: int = DPI) -> Path:
        """Write the picture in the format that the ending names: png, svg or pdf.

        Parameters
        ----------
        target : path
        dpi : int
            Dots per inch of a PNG.

        Returns
        -------
        pathlib.Path
            The file.

        Raises
        ------
        FlowError
            If the file cannot be written or its ending is unknown.
        """
        path = Path(target)
        kind = path.suffix.lower().lstrip(".")
        if kind not in ("png", "svg", "pdf"):
            raise FlowError(f"the picture is '{target}'; it must end in .png, .svg or .pdf")
        try:
            write_file(path, self._bytes(kind, dpi))
        except OSError as error:
            reason = error.strerror or str(error)
            raise FlowError(f"the picture '{target}' cannot be written: {reason}") from error
        return path

    def png(self, dpi: int = DPI) -> bytes:
        """Return the picture as the bytes of a PNG file."""
        return self._bytes("png", dpi)

    def _bytes(self, kind: str, dpi: int) -> bytes:
        file, metadata = BytesIO(), _metadata(kind, self.description)
        if kind != "png":
            self.savefig(file, format=kind, dpi=dpi, metadata=metadata)
            return file.getvalue()
        # `savefig` would draw everything twice, the first time only for the layout.
        self.set_dpi(dpi)
        canvas: Any = self.canvas
        canvas.print_png(file, metadata=metadata)
        return file.getvalue()

    def _repr_png_(self) -> bytes:
        """Show the picture in a notebook."""
        return self.png(72)


def _metadata(kind: str, description: str) -> dict[str, Any]:
    """Return the description as metadata of a file, without a date: files are reproducible."""
    if kind == "png":
        return {"Description": description} if description else {}
    return {"Title": description, "Date" if kind == "svg" else "CreationDate": None}


def label(array: DataArray, width: int = 34) -> str:
    """Return name, meaning and unit of an array, in lines of at most `width` characters."""
    name, text = str(array.name), str(array.attrs.get("long_name", ""))
    unit = unit_of(array)
    text = f"{name}: {text}" if text not in ("", name) else name
    return fill(f"{text} ({unit})" if unit else text, width)


def short(array: DataArray) -> str:
    """Return name and unit of an array."""
    unit = unit_of(array)
    return f"{array.name} ({unit})" if unit else str(array.name)


def unit_of(array: DataArray) -> str:
    """Return the unit; empty for dimensionless quantities."""
    unit = str(array.attrs.get("units", ""))
    return "" if unit == "1" else unit


def colour_map(name: str = MAP) -> Any:
    """Return a colour map in which missing values are grey."""
    return colormaps[name].with_extremes(bad=MISSING)


def legend(panel: Axes, **options: Any) -> None:
    """Add a legend in small letters and without a frame to a panel."""
    panel.legend(**{"frameon": False, "fontsize": SMALL, **options})


def tidy(panel: Axes) -> None:
    """Remove the sides of the frame without numbers, and draw a faint grid."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25, lw=0.5)
    panel.set_axisbelow(True)
