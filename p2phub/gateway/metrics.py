"""Counters as text for Prometheus. Source: Prometheus text exposition format 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable

from p2phub.gateway.http import Response
from p2phub.node.figures import Metric


def metrics_response(metrics: Iterable[Metric]) -> Response:
    lines: list[str] = []
    described: set[str] = set()
    for metric in sorted(metrics, key=lambda found: found.name):
        name = f"p2phub_{metric.name}"
        if name not in described:
            described.add(name)
            lines.append(f"# HELP {name} {_line(metric.help)}")
            lines.append(f"# TYPE {name} {metric.type}")
        labels = ",".join(f'{key}="{_label(value)}"' for key, value in metric.labels.items())
        lines.append(
            f"{name}{{{labels}}} {_number(metric)}" if labels else f"{name} {_number(metric)}"
        )
    return Response(
        200, ("\n".join(lines) + "\n").encode(), "text/plain; version=0.0.4; charset=utf-8"
    )


def _number(metric: Metric) -> str:
    # Counters of bytes stay exact, which %g would not keep.
    whole = int(metric.value)
    return str(whole) if whole == metric.value else repr(metric.value)


def _line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", " ")


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
