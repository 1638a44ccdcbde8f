"""Comparison of random and public models with independent references, and further checks.

    python -m benchmarks conformance --minutes 10 --seed 1

`generator` draws a `case.Case`: a model, a batch and a method. `reference` integrates its runs with
SciPy, from the text of the model alone. `comparison` compares both results. `metamorphic` solves a
case in other ways that must not change the result. `shrinking` reduces a case that disagrees.
`campaign` does all of this for many cases in worker processes.
"""
