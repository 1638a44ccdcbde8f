"""Print what the latest Lorenz sweep shows: python analyse.py [results.zarr]."""

from __future__ import annotations

import sys
from pathlib import Path

import xarray


def latest() -> Path:
    """Return the newest result of this study below the current folder's ``outputs``."""
    stores = sorted(Path("outputs/lorenz_sweep").glob("*/*/results.zarr"))
    if not stores:
        sys.exit("no result below outputs/lorenz_sweep; run python -m cubie_flow first")
    return max(stores, key=lambda store: store.stat().st_mtime)


def main() -> None:
    """Compare the saved z with the fixed points, for a few ranges of rho."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else latest()
    data = xarray.open_zarr(path, chunks=None)
    good = data.status == 0
    print(f"{path}: {data.sizes['run']:,} runs, {int(good.sum()):,} successful")
    print("rho            z at the end - (rho - 1), median   range of z in the last 5 units")
    late = data.z.isel(time=slice(-11, None)).load()
    for low, high in ((0, 1), (1, 5), (5, 13.9), (13.9, 20), (20, 24.06), (24.74, 30), (30, 40)):
        chosen = good & (data.rho >= low) & (data.rho < high)
        last, rho = late.isel(time=-1)[chosen], data.rho[chosen]
        fixed = (rho - 1).clip(min=0)
        spread = (late[chosen].max("time") - late[chosen].min("time")).median()
        distance = abs(last - fixed).median()
        print(f"{low:5} to {high:5} {float(distance):33.4f} {float(spread):32.4f}")


if __name__ == "__main__":
    main()
