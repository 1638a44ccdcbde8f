"""Designs: from a grid, a list, a Sobol sequence or a table to the runs of one batch."""

from cubie_flow.batches.designs import KINDS, Design, make_design

__all__ = ["KINDS", "Design", "make_design"]
