"""The page at `/`: the releases of this node, readable without a script, an image or anything from
elsewhere.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Final

from p2phub.digest import sha256
from p2phub.display import size_text, visible
from p2phub.gateway.http import Response
from p2phub.node.api import ReleaseSummary
from p2phub.node.figures import StatusView

ROWS_MAX: Final = 2000  # releases shown: a page that a browser still lays out at once

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}"
    "td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #8884}"
    "td.n,th.n{text-align:right}code{font-size:.9em;overflow-wrap:anywhere}"
    ":root{color-scheme:light dark}"
)
_STYLE_HASH: Final = base64.b64encode(sha256(_STYLE.encode())).decode()
_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'"
)


def page(status: StatusView, releases: Sequence[ReleaseSummary], endpoint: str) -> Response:
    """The page as a reply. endpoint: what HF_ENDPOINT is to be set to."""
    rows = "".join(_row(release) for release in releases[:ROWS_MAX])
    more = len(releases) - ROWS_MAX
    body = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>p2phub</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style></head><body><h1>p2phub</h1>"
        f"<p>{_shown(status.peer_id)} · {status.peers} peers</p>"
        f"<p>Read them with any tool for the Hugging Face Hub: "
        f"<code>HF_ENDPOINT={_shown(endpoint)} hf download NAME</code></p>"
        '<table><thead><tr><th>release</th><th>kind</th><th class="n">files</th>'
        '<th class="n">size</th><th>state</th><th>content id</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
        + (f"<p>and {more} more</p>" if more > 0 else "")
        + "</body></html>"
    )
    return Response(
        200,
        body.encode("utf-8", "backslashreplace"),
        "text/html; charset=utf-8",
        (("content-security-policy", _POLICY), ("cache-control", "no-store")),
    )


def _row(release: ReleaseSummary) -> str:
    held = f"{release.held_bytes * 100 // release.data_size} %" if release.data_size else ""
    state = release.state if release.state != "partial" else f"partial, {held}"
    return (
        f"<tr><td>{_shown(release.reference)}</td><td>{_shown(release.kind or '')}</td>"
        f'<td class="n">{release.file_count}</td><td class="n">{size_text(release.data_size)}</td>'
        f"<td>{_shown(state)}</td><td><code>{_shown(release.content_id)}</code></td></tr>"
    )


def _shown(text: str) -> str:
    """A stranger's words: markup escaped, characters that no one sees made visible."""
    return escape(visible(text))
