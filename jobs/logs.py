"""Logging: one JSON object a line on standard error, ids as fields."""

import logging
import sys

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

_FOR_TERMINALS = ("color_message",)
"""What uvicorn adds to some of its records: the message once more, with escape sequences."""


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
            reserved_attrs=(*RESERVED_ATTRS, *_FOR_TERMINALS),
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
