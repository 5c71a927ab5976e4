"""How numbers are written on the page."""

NONE = "\N{EN DASH}"


def number(value: float | None, decimals: int = 3, *, signed: bool = False) -> str:
    """Write a number with a true minus sign; a dash for None."""
    if value is None:
        return NONE
    return f"{value:{'+' if signed else ''}.{decimals}f}".replace("-", "\N{MINUS SIGN}")
