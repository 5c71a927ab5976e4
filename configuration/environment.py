"""Settings read from environment variables, and what is said of those that are wrong.

A value that holds a password (`SECRET`) is never quoted: what a process says at its start ends in
logs and in the output of health checks.
"""

import difflib
import logging
import os
from collections.abc import Mapping
from typing import Self

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from configuration.variables import KNOWN_VARIABLES, PREFIX

logger = logging.getLogger(__name__)

SECRET = object()
"""Among the metadata of a field: its value holds a password, and is not quoted."""


class SettingsError(Exception):
    """Environment variables have values that are not understood; names each of them."""


class EnvironmentSettings(BaseSettings):
    """Base of all settings: frozen, each field in the variable of its name."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True
    )

    @classmethod
    def read(cls) -> Self:
        """Read them from the environment.

        Raises:
            SettingsError: A value is not valid.
        """
        try:
            return cls()
        except ValidationError as error:
            raise SettingsError("the settings are not valid\n" + cls._explained(error)) from None

    @classmethod
    def _explained(cls, error: ValidationError) -> str:
        """What is wrong, a line for each variable."""
        reasons: dict[str, list[str]] = {}
        for item in error.errors():
            reason = item["msg"].removeprefix("Value error, ")
            # A value of several types is wrong in as many ways, of one variable.
            reasons.setdefault(str(item["loc"][0]) if item["loc"] else "", []).append(reason)
        return "\n".join(
            f"  {cls._shown(name)}{' / '.join(messages)}" for name, messages in reasons.items()
        )

    @classmethod
    def _shown(cls, name: str) -> str:
        """A field as its variable with its value; nothing for what is wrong with several."""
        if not name:
            return ""
        expected = f"{cls.model_config.get('env_prefix', '')}{name}".upper()
        # Names are read whatever their case, so it is told as it was set.
        variable = next((each for each in os.environ if each.upper() == expected), expected)
        field = cls.model_fields[name]
        is_secret = SECRET in field.metadata
        return f"{variable}: " if is_secret else f"{variable}={os.environ.get(variable)!r}: "


def warn_of_unknown_variables(environment: Mapping[str, str] = os.environ) -> None:
    """Log a warning for each variable that looks like a setting and is none: a slip of the pen.

    It is no error, since others may set such names too: Kubernetes describes a service that is
    called hgprompt in `HGPROMPT_SERVICE_HOST` and more.
    """
    # Without what all have in common, by which any two would be near.
    known = [name.removeprefix(PREFIX) for name in KNOWN_VARIABLES]
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in KNOWN_VARIABLES:
            near = difflib.get_close_matches(name.removeprefix(PREFIX), known, n=1)
            meant = f"; is {PREFIX}{near[0]} meant?" if near else ""
            logger.warning("%s is not a setting and is ignored%s", name, meant)
