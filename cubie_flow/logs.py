"""What happens in a run, written into its folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cubie_flow.errors import FlowError

log = logging.getLogger("cubie_flow")


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Send what is logged, and warnings, to a file."""
    # A disk that is full is said once, in a sentence, and not by the logger as well.
    logging.raiseExceptions = False
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
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
