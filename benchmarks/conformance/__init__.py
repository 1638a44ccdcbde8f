"""Random and public models against independent references, and checks that need no reference.

    python -m benchmarks conformance --minutes 10 --seed 1

`generator` draws a `case.Case`: a model, a batch and a method. `reference` integrates its runs with
SciPy from the text of the model alone, `comparison` compares, `metamorphic` changes what must not
matter, `shrinking` makes a disagreement small, `campaign` does all of this in worker processes.
"""
