"""``cubie-results audit``: measure the errors of a result."""

from __future__ import annotations

import sys

import click

from cubie_flow.analysis import output


@click.command()
@output.path_argument
@click.option("--fraction", default=0.001, show_default=True, help="Share of the runs, at least 8.")
@click.option("--seed", default=0, show_default=True, help="Seed of the random choice of runs.")
@click.option("--tighter", default=1000.0, show_default=True, help="Divisor of the tolerances.")
@click.option("--target", default="auto", show_default=True, help="auto, cpu, cuda or simulator.")
@output.json_option
def audit(
    path: str, fraction: float, seed: int, tighter: float, target: str, as_json: bool
) -> None:
    """Integrate some runs of PATH again with another method and tighter tolerances.

    The errors are stored with the result.
    """
    from cubie_flow.analysis.audit import audit as run_audit
    from cubie_flow.analysis.audited import reference, sentences

    def show(done: int, total: int) -> None:
        print(f"audited {done:,} of {total:,} runs", file=sys.stderr, flush=True)

    table = run_audit(
        path,
        fraction=fraction,
        seed=seed,
        tighter=tighter,
        target=target,
        on_progress=show,
        on_unkept=lambda why: print(f"not kept: {why}", file=sys.stderr),
    )
    summary = sentences(table)
    if as_json:
        columns = {str(name): values.values for name, values in table.data_vars.items()}
        output.print_json({"summary": summary, "attributes": table.attrs, "runs": columns})
        return
    output.print_facts([("audited error", text) for text in summary])
    output.print_facts([("reference", reference(table))])
    output.print_facts([("measure", str(table.attrs["measure"]))])
