"""Allowed values of config keys; what implements a key and what checks it both read them here.

This module imports nothing, so that a command line is checked before a solver is loaded.
"""

PRECISIONS = ("float32", "float64")
#: Elementary functions on CUDA.
MATHS = ("portable", "native")
#: Step controllers; ``default`` is the one that the literature gives a method.
CONTROLLERS = ("default", "fixed", "i", "pi", "pid", "gustafsson")
#: Solvers of the linear systems of implicit methods.
LINEAR_SOLVERS = ("auto", "sparse", "pivoted", "bicgstab")
#: Locations of a buffer.
LOCATIONS = ("register", "local", "shared")
#: Which placements of buffers ``task=placement`` compares.
SEARCHES = ("all", "one_at_a_time", "pareto")
#: Kinds of a batch.
DESIGNS = ("single", "grid", "zip", "sobol", "latin_hypercube", "table", "subjects")
#: From which row on a changed covariate holds: its own, or the one before it.
CARRIES = ("forward", "backward")
#: Orders in which the runs of a shard are solved.
ORDERS = ("given", "cost")
