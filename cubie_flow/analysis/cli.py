"""The command ``cubie-results``.

Every command is a module of `cubie_flow.analysis.commands`. It is loaded when it is called, so that
``--help`` is fast. A new command is one module and one line in `COMMANDS`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import click

from cubie_flow.errors import (
    FlowError,
    is_from_store,
    lacks_memory,
    memory_sentence,
    nearest,
    unreadable_sentence,
)
from cubie_flow.process.startup import check_surroundings, process
from cubie_flow.process.streams import open_streams, silence_stdout, stdout_error

#: Command, also the name of its module and function, and what it does in one line.
COMMANDS: dict[str, str] = {
    "ls": "list the studies below a folder",
    "show": "show what a result holds and where it came from",
    "runs": "list runs: --where, --sort, --limit",
    "compare": "compare two results",
    "export": "write Parquet, CSV, NetCDF or NumPy",
    "audit": "integrate some runs again with tighter tolerances",
    "plot": "draw a picture: trajectories, bands, heatmap, bifurcation, ...",
    "report": "write one HTML file about the study and its results",
    "watch": "show how far a study is, in the terminal or on a page",
    "verify": "compare a result with its checksums",
}
HOME = "cubie_flow.analysis.commands"


class _Commands(click.Group):
    """A group of commands that loads the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"{HOME}.{name}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise FlowError(
                f"'{args[0]}' is not a command; use one of {', '.join(COMMANDS)}"
                f"{nearest(args[0], COMMANDS)}"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def cubie_results() -> None:
    """Look at results: list, show, select, compare, draw, export.

    PATH is results.zarr or the folder of a run. Every command has --json.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    arguments
        Words of the command line; None for those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    process.owned = arguments is None
    if process.owned:
        open_streams()
    try:
        check_surroundings()
        code = cubie_results.main(words or ["--help"], "cubie-results", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except FlowError as error:
        return _complain(str(error))
    except click.ClickException as error:
        return _complain(error.format_message().rstrip(".").replace("\n", " "))
    except click.Abort:
        return _complain("interrupted", 130)
    except BrokenPipeError:
        # The reader of the output has ended (`| head`).
        silence_stdout()
        return 1
    except OSError as error:
        name = f"'{error.filename}': " if error.filename else ""
        return _complain(stdout_error(error) or f"{name}{error.strerror or error}")
    except Exception as error:
        if lacks_memory(error):
            return _complain(memory_sentence(error))
        if not is_from_store(error):
            raise
        return _complain(unreadable_sentence(error))


def _complain(message: str, code: int = 1) -> int:
    print(f"cubie-results: {message}", file=sys.stderr, flush=True)
    return code
