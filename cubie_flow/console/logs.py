"""What happens in a run, written into its folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cubie_flow.credentials import redacted
from cubie_flow.errors import FlowError

log = logging.getLogger("cubie_flow")


class _Redacting(logging.Formatter):
    """Writes no credentials, whoever logs them."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return redacted(super().format(record))


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Send what is logged, and warnings, to a file."""
    # A disk that is full is said once, in a sentence, and not by the logger as well.
    logging.raiseExceptions = False
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_Redacting("%(asctime)s %(levelname)s %(message)s"))
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
