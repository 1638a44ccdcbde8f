"""The command ``python -m cubie_flow``: its arguments, errors and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import hydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from cubie_flow import credentials
from cubie_flow.cli.resume import RESUME
from cubie_flow.cli.tasks import run_task
from cubie_flow.cli.verify import VERIFY
from cubie_flow.config import hydra_plugins, overrides
from cubie_flow.config.schema import shipped
from cubie_flow.errors import FlowError, lacks_memory, memory_sentence
from cubie_flow.multirun import sweeper
from cubie_flow.process.machine import process_age
from cubie_flow.process.profile import stopwatch
from cubie_flow.process.signals import Stopped, ignore_interrupts
from cubie_flow.process.startup import check_surroundings, process
from cubie_flow.process.streams import open_streams, silence_stdout, stdout_error

if TYPE_CHECKING:
    from omegaconf import DictConfig

PROFILE = "--profile"
INTERRUPTED = 130


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
    profiled = PROFILE in words
    if profiled:
        words = [word for word in words if word != PROFILE]
        # The time since the start of the process counts if this command is all that it runs.
        stopwatch.start(process_age() if process.owned else 0.0)
    traceback = "HYDRA_FULL_ERROR" in os.environ
    # With it, Hydra raises errors; without it, Hydra prints them over several lines.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    saved = sys.argv
    try:
        return _run_command(words)
    except KeyboardInterrupt:
        ignore_interrupts()
        return _report_error("interrupted", INTERRUPTED)
    except Stopped as error:
        ignore_interrupts()
        return _report_error(f"interrupted: {error}", error.code)
    except BrokenPipeError:
        # The reader of the output has ended (`| head`).
        silence_stdout()
        return 1
    except (FlowError, HydraException, OmegaConfBaseException, OSError, ValueError) as error:
        if traceback:
            raise
        return _report_error(
            _of_memory(error) or stdout_error(error) or overrides.sentence(error, words)
        )
    except (ImportError, MemoryError, RuntimeError) as error:
        message = _of_memory(error)
        if isinstance(error, RecursionError):
            message = "what was given is nested too deeply"
        if traceback or not message:
            raise
        return _report_error(message)
    finally:
        sys.argv = saved
        if not traceback:
            del os.environ["HYDRA_FULL_ERROR"]
        if profiled:
            print(stopwatch.stop(), file=sys.stderr)


def _run_command(words: list[str]) -> int:
    """Resume or verify a folder that the words name, or compose a config and run its task."""
    check_surroundings()
    credentials.register()
    words[:] = credentials.hidden_words(words)
    if any(word.startswith(RESUME) for word in words):
        from cubie_flow.cli.resume import resume

        code = resume(words)
    elif any(word.startswith(VERIFY) for word in words):
        from cubie_flow.cli.verify import verify

        code = verify(words)
    else:
        hydra_plugins.register()
        sweeper.register()
        words[:] = overrides.arguments(words)
        sys.argv = [sys.argv[0], *words]
        code = _compose_and_run()
    sys.stdout.flush()
    return code


def _compose_and_run() -> int:
    """Let Hydra compose the config, and run its task, or the jobs of a multirun."""
    codes = [0]
    stopped: list[Stopped] = []

    def job(config: DictConfig) -> None:
        with stopwatch.phase("rest"):
            try:
                codes.append(_run_job(config))
            except Stopped as error:  # Hydra would print the overrides of a job that it leaves
                stopped.append(error)

    entry = hydra.main(version_base="1.3", config_path=str(shipped("conf")), config_name="config")
    with stopwatch.phase("configure"):
        entry(job)()
    if stopped:
        raise stopped[0]
    return max(codes)


def _run_job(config: DictConfig) -> int:
    """Run one task and return its exit code; an error does not stop the other jobs."""
    try:
        run_task(config)
    except FlowError as error:
        return _report_error(str(error))
    except BrokenPipeError:
        silence_stdout()  # Hydra would print a message about an error that leaves its job
        return 1
    except (OmegaConfBaseException, OSError, ValueError) as error:
        return _report_error(
            _of_memory(error) or stdout_error(error) or overrides.sentence(error, [])
        )
    except (ImportError, MemoryError, RuntimeError) as error:
        if not (message := _of_memory(error)):
            raise
        return _report_error(message)
    return 0


def _of_memory(error: BaseException) -> str:
    """Return the sentence for a lack of memory; empty for other errors."""
    return memory_sentence(error) if lacks_memory(error) else ""


def _report_error(message: str, code: int = 1) -> int:
    print(f"cubie-flow: {credentials.redacted(message)}", file=sys.stderr, flush=True)
    return code
