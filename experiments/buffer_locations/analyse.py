"""Print the latest placement study: the trade between stack, spills and occupancy."""

from __future__ import annotations

import sys
from pathlib import Path

import xarray

STUDY = "buffer_locations_placement"


def main() -> None:
    """Read the store given as argument, or the newest below ``outputs``."""
    found = sorted(Path("outputs", STUDY).glob("*/*/results.zarr"))
    if len(sys.argv) > 1:
        found = [Path(sys.argv[1])]
    if not found:
        sys.exit("no result yet: python -m cubie_flow experiment=buffer_locations")
    data = xarray.open_dataset(found[-1], engine="zarr", consolidated=False)
    print(f"{data.attrs['title']}, {data.attrs['arch']}, ranked by {data.attrs['ranked_by']}")
    names = ["spill_stores", "stack", "registers", "shared_run", "block_size", "occupancy"]
    print(data[names].to_dataframe().to_string(float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
