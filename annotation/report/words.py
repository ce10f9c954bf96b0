"""Names and numbers as the page spells them."""

import html

import numpy as np

LONGEST = 200  # letters of a name that are shown; a file may hold names of a million


def text(value) -> str:
    return html.escape(str(value), quote=True)


def percent(share: float) -> str:
    return "–" if share != share else f"{100 * share:.1f} %"


def number(value, digits: int = 3) -> str:
    if value is None or value != value:
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}"
    if isinstance(value, (float, np.floating)):
        return f"{int(value):,}" if float(value).is_integer() and abs(value) >= 10 else f"{value:.{digits}f}"
    return str(value)


def short(name: str, length: int = 28) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def shown(value) -> str:
    """A name as the page shows it, escaped."""
    return text(short(str(value), LONGEST)) or "(no name)"


def plural(n: int, word: str) -> str:
    return f"{n:,} {word}{'' if n == 1 else 's'}"
