"""What the suite can refuse; each message names the value and what was expected."""


class SuiteError(ValueError):
    """Base of all errors raised by this package."""
