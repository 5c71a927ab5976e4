"""Logging: one JSON object a line on standard error, ids as fields."""

import logging
import sys

from pythonjsonlogger.json import JsonFormatter


def configure_logging(level: str, **fields: str) -> None:
    """Send every logger of the process to standard error as JSON lines.

    Args:
        level: Least severe level that is logged.
        fields: Added to every line.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            ["levelname", "name", "message"],
            rename_fields={"levelname": "level", "name": "logger"},
            timestamp=True,
            static_fields=fields,
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
