"""The ranking of buffer placements: python analyse.py [results.zarr] [picture.png]."""

from __future__ import annotations

from xarray import Dataset

from cubie_flow.analysis.experiments import analyse
from cubie_flow.analysis.pictures import drawer
from cubie_flow.analysis.pictures.style import Picture

FIGURES = ["spill_stores", "stack", "registers", "shared_run", "block_size", "occupancy"]


def main(data: Dataset) -> Picture:
    """Print stack, spills and occupancy of every placement, and return the picture."""
    picture = drawer("placements")(data)
    print(f"{data.attrs['title']}, {data.attrs['arch']}, ranked by {data.attrs['ranked_by']}")
    print(data[FIGURES].to_dataframe().to_string(float_format="{:.2f}".format))
    return picture


if __name__ == "__main__":
    analyse("buffer_locations_placement", main)
