"""Designs: from a grid, a list, a Sobol sequence or a table to the runs of one batch."""

from cubie_flow.batches.designs import Design, make_design
from cubie_flow.batches.swept import SEED, SEED_LABEL, swept_design

__all__ = ["SEED", "SEED_LABEL", "Design", "make_design", "swept_design"]
