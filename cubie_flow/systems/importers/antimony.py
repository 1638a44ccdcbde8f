"""Antimony models, through the antimony package, which converts them to SBML.

The package runs in a separate process: formulas and submodels that grow without bound end that
process, not the study. Errors have names but no lines, because lines would be those of the SBML.
"""

from __future__ import annotations

import os
import re
import subprocess
from typing import NoReturn

from attrs import evolve

from cubie_flow.errors import FlowError
from cubie_flow.process.python_path import isolated, small_environment
from cubie_flow.systems.importers import sbml
from cubie_flow.systems.importers.markup import Markup
from cubie_flow.systems.importers.names import missing
from cubie_flow.systems.importers.sbml_messages import reason
from cubie_flow.systems.system import OdeSystem

_NO_PACKAGE, _NO_LIMITS = "no package", "no limits"
#: Seconds and bytes of memory that reading one model may take.
MAX_SECONDS, MAX_MEMORY = 30, 4_000_000_000
#: Reads a model, and writes SBML after a plus, or an error after a minus. It can open no file,
#: because the package would read every file that a model imports.
_PROGRAM = f"""
import contextlib
try:
    import antimony
except ImportError:
    sys.exit({_NO_PACKAGE!r})
try:
    import resource
except ImportError:
    sys.exit({_NO_LIMITS!r})
text = sys.stdin.buffer.read().decode()
with contextlib.suppress(OSError, ValueError):  # macOS may refuse
    resource.setrlimit(resource.RLIMIT_AS, ({MAX_MEMORY}, {MAX_MEMORY}))
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
try:
    if antimony.loadAntimonyString(text) < 0:
        found = "-" + antimony.getLastError()
    else:
        found = "+" + antimony.getSBMLString(antimony.getMainModuleName())
except UnicodeDecodeError:
    found = "-names and formulas are of basic Latin letters"
sys.stdout.buffer.write(found.encode())
"""


def read(name: str, text: str, file: str) -> OdeSystem:
    """Return the system of an Antimony model.

    Parameters
    ----------
    name : str
        Name of the system if the model has none.
    text : str
    file : str
        Names the file in errors.

    Raises
    ------
    FlowError
        For a mistake, or the first feature that is not supported.
    """
    try:
        done = subprocess.run(
            isolated(_PROGRAM, os.path.dirname(file)), env=small_environment(),
            input=text.encode(), capture_output=True, timeout=MAX_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise FlowError(
            f"'{file}': antimony did not read it within {MAX_SECONDS} s; formulas and submodels "
            "must be smaller"
        ) from None
    answer = done.stdout.decode()
    error = done.stderr.decode(errors="replace").strip()
    if error == _NO_PACKAGE:
        raise missing("antimony", "Antimony models")
    if error == _NO_LIMITS:
        raise FlowError(f"'{file}': Antimony models are read on Linux and macOS only")
    if done.returncode or not answer:
        raise FlowError(
            f"'{file}': antimony ended while reading it, in at most {MAX_MEMORY // 10**9} GB of "
            "memory; formulas and submodels must be smaller"
        )
    if answer[0] == "-":
        _refuse(answer[1:], file)
    markup = evolve(Markup.check(answer[1:].encode(), file), lines={}, first={})
    return evolve(sbml.read(name, markup, file), source="Antimony")


def _refuse(message: str, file: str) -> NoReturn:
    """Raise the error for a message of the package."""
    place = re.search(r"line (\d+)", message)
    where = f"'{file}', line {place[1]}" if place else f"'{file}'"
    if "Could not open" in message or "cannot be read from" in message:
        raise FlowError(f"{where}: imports of other files are not supported")
    # Messages of libsbml about the result follow those of antimony, more than once.
    own, _, inner = message.partition("Error message(s) from libSBML:")
    inner = inner.partition("The interpretation the Hierarchical Model")[0]
    text = reason(inner or re.sub(r"^Error in model string, line \d+:", "", own))
    raise FlowError(f"{where}: it is not valid Antimony: {text}")
