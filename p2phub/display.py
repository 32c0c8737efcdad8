"""Words that people read, on the terminal and on the gateway's page."""

from __future__ import annotations


def visible(text: object) -> str:
    """`text` with each character that acts on a screen, or that nobody sees, as an escape.

    Names come from strangers: a terminal must not obey them, and two of them must not look alike
    for what cannot be seen.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def size_text(count: float) -> str:
    """Bytes with up to three digits and a decimal unit: 90.9 MB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if value >= 99.95 or unit == "B" else f"{value:.1f} {unit}"
