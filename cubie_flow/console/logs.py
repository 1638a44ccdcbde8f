"""The log file of a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cubie_flow.credentials import redacted
from cubie_flow.errors import FlowError
from cubie_flow.process.safe_files import open_inside

log = logging.getLogger("cubie_flow")


class _RedactingFormatter(logging.Formatter):
    """Formats records without credentials."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return redacted(super().format(record))


class _LogFile(logging.FileHandler):
    """Appends to the log of a run, which must be no link."""

    def _open(self) -> Any:
        path = Path(self.baseFilename)
        descriptor = open_inside(path.parent, path.name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return open(descriptor, self.mode, encoding=self.encoding)


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Write log records and warnings to a file; log the error that ends the block.

    Raises
    ------
    FlowError
        If the file is a link.
    """
    # A full disk ends the run with one error; the logger does not report it a second time.
    logging.raiseExceptions = False
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(_RedactingFormatter("%(asctime)s %(levelname)s %(message)s"))
    loggers: list[Any] = [log, logging.getLogger("py.warnings")]
    logging.captureWarnings(True)
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    log.setLevel(logging.INFO)
    try:
        yield
    except FlowError as error:
        log.error(str(error))
        raise
    except KeyboardInterrupt:
        log.error("interrupted")
        raise
    finally:
        logging.captureWarnings(False)
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()
