"""The curves of one simulation as an SVG: how far the peers are, how busy the uplinks.

Two charts of a few lines each need no library.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from simulations.scenarios import Report, Sample

WIDTH, HEIGHT, LEFT, TOP, CHART = 720, 420, 60, 46, 140  # pixels
CURVES: tuple[tuple[str, int, str, Callable[[Sample], float]], ...] = (
    ("the first peer holds", 0, "#9ecae1", lambda sample: sample.most),
    ("the median peer holds", 0, "#3182bd", lambda sample: sample.median),
    ("the last peer holds", 0, "#08306b", lambda sample: sample.least),
    ("uplinks in use", 1, "#e6550d", lambda sample: min(sample.utilisation, 1.0)),
)


def svg(report: Report, samples: list[Sample]) -> str:
    """The picture, as text."""
    end_s = max(report.last_s, report.bound_s, samples[-1].time_s) * 1.02
    width = WIDTH - LEFT - 150
    title = (
        f"{report.scenario}: {report.peers_count} peers, seed {report.seed}; "
        f"99 % done at {report.p99_ratio:.3f} of the bound, all at {report.ratio:.3f}"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="13">{escape(title)}</text>',
    ]
    for chart in (0, 1):
        bottom = TOP + chart * (CHART + 30) + CHART
        for share in (0.0, 0.5, 1.0):
            y = bottom - share * CHART
            parts.append(_line(LEFT, y, LEFT + width, y, "#cccccc"))
            parts.append(f'<text x="{LEFT - 38}" y="{y + 4:.0f}">{share:.0%}</text>')
        x = LEFT + report.bound_s / end_s * width
        parts.append(_line(x, bottom - CHART, x, bottom, "#31a354"))
    parts.append(f'<text x="{x - 14:.0f}" y="{bottom + 14}" fill="#31a354">bound</text>')
    for second in (0.0, report.last_s):
        x = LEFT + second / end_s * width
        parts.append(f'<text x="{x - 8:.0f}" y="{bottom + 28}">{second:.1f} s</text>')
    for number, (name, chart, colour, value) in enumerate(CURVES):
        bottom = TOP + chart * (CHART + 30) + CHART
        points = " ".join(
            f"{LEFT + sample.time_s / end_s * width:.1f},{bottom - value(sample) * CHART:.1f}"
            for sample in samples
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
        y = TOP + 16 * (number + 1) + (CHART if chart else 0)
        parts.append(f'<text x="{LEFT + width + 12}" y="{y}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'
