"""The gateway as one ASGI application: check the source, find the route, answer.

Nothing here changes any state.

The contract is the Hub's, as its clients use it: routes.py says which paths, hub.py which JSON,
files.py which headers. Errors on /api are never 5xx, and every refusal carries X-Error-Code.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection
from typing import Final
from urllib.parse import parse_qs, urlencode

from p2phub.errors import expected
from p2phub.gateway import hub
from p2phub.gateway.catalog import Catalog, Listing, api_error
from p2phub.gateway.files import Files
from p2phub.gateway.guard import check_source
from p2phub.gateway.http import (
    Headers,
    HttpError,
    Message,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    error_response,
    json_response,
    read_body,
    send_response,
)
from p2phub.gateway.metrics import metrics_response
from p2phub.gateway.page import page
from p2phub.gateway.routes import Route, parse_route
from p2phub.node.api import NodeApi
from p2phub.node.figures import Metric

log = logging.getLogger(__name__)

TREE_PAGE_ENTRIES: Final = 10_000  # llama.cpp reads the first page only
PATHS_MAX: Final = 10_000  # in one paths-info request


class Gateway:
    """The application; one per node."""

    def __init__(self, node: NodeApi, own_names: Collection[str] = ()) -> None:
        self._node = node
        self._own_names = frozenset(own_names)
        self._catalog = Catalog(node)
        self._files = Files(node)
        self._replies: Counter[int] = Counter()  # by status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Source: ASGI 3.0."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            await self._answer(Request.from_scope(scope), receive, send)
        else:
            # No web sockets here; before it is accepted, closing one answers 403.
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, request: Request, receive: Receive, send: Send) -> None:
        begun = False

        async def counted(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self._replies[message["status"]] += 1
            await send(message)

        try:
            check_source(request, self._own_names)
            response = await self._respond(request, receive, counted)
        except HttpError as error:
            response = error_response(error)
        except Exception as error:
            known = expected(error)
            if known is None:
                log.exception("%s %.200r failed", request.method, request.raw_path)
            if begun:
                return  # Too late to say so: closing the connection early is all that is left.
            bug = HttpError(500, "Bug", "a fault of p2phub; its log has more")
            response = error_response(bug if known is None else api_error(known))
        if response is not None:
            await send_response(response, request.method, counted)

    async def _respond(self, request: Request, receive: Receive, send: Send) -> Response | None:
        """The reply, or None where it was sent already. Raises HttpError, P2phubError."""
        segments = request.segments
        if segments == ("",):
            _only(request, "GET", "HEAD")
            endpoint = f"http://{request.headers['host']}"
            return page(await self._node.status(), await self._node.releases(), endpoint)
        if segments == ("healthz",):
            _only(request, "GET", "HEAD")
            return Response(200, b"ok\n", "text/plain; charset=utf-8")
        if segments == ("metrics",):
            _only(request, "GET", "HEAD")
            return metrics_response((*self._node.metrics(), *self._own_metrics()))
        route = parse_route(segments)
        if route is None:
            _only(request, "GET", "HEAD")
            raise HttpError(404, "NotFound", "there is nothing here")
        _only(request, *(("POST",) if route.verb == "paths-info" else ("GET", "HEAD")))
        if route.verb == "list":
            return await self._list(request, route)
        listing = await self._catalog.listing(route)
        if route.verb == "resolve":
            await self._files.serve(request, listing, route.path, receive, send)
            return None
        return await self._describe(request, route, listing, receive)

    async def _describe(
        self, request: Request, route: Route, listing: Listing, receive: Receive
    ) -> Response:
        commit: Headers = (("x-repo-commit", listing.commit),)
        if route.verb == "info":
            blobs = request.asked("blobs") or "siblings" in request.query.get("expand", [])
            return json_response(hub.repository_info(route.id, listing, blobs), commit)
        if route.verb == "refs":
            return json_response(hub.refs(listing, await self._catalog.versions(route)), commit)
        if route.verb == "paths-info":
            paths = _paths(await read_body(receive), request.headers.get("content-type", ""))
            return json_response(hub.path_entries(listing, paths), commit)
        assert route.verb == "tree"
        path = route.path.strip("/")
        if path and path not in listing.folders:
            raise HttpError(404, "EntryNotFound", f"there is no folder {path[:200]!a}", commit)
        return _tree_page(request, listing, path, commit)

    async def _list(self, request: Request, route: Route) -> Response:
        """Releases of this node, the highest version of each name; `search` and `author` narrow
        them down.
        """
        search = request.query.get("search", [""])[-1].lower()
        author = request.query.get("author", [""])[-1]
        rows = {}
        for summary in await self._node.releases():
            row = hub.repository_row(summary)
            if (
                summary.kind == route.kind
                and search in row["id"].lower()
                and author in ("", row["author"])
            ):
                rows[row["id"]] = row
        return json_response(list(rows.values()))

    def _own_metrics(self) -> list[Metric]:
        counters = self._files.counters
        found = [
            Metric(
                name="gateway_replies_total",
                help="Replies of the gateway by status.",
                type="counter",
                value=count,
                labels={"status": str(status)},
            )
            for status, count in sorted(self._replies.items())
        ]
        for name, text, value in (
            ("gateway_sent_bytes_total", "Bytes of files sent.", counters.bytes_sent),
            (
                "gateway_files_total",
                "Replies with a file's bytes that began.",
                counters.files_begun,
            ),
            ("gateway_files_cut_total", "Of these, cut short.", counters.files_cut_short),
        ):
            found.append(Metric(name=name, help=text, type="counter", value=value, labels={}))
        found.append(
            Metric(
                name="gateway_readers",
                help="Files being sent.",
                type="gauge",
                value=counters.readers,
                labels={},
            )
        )
        return found


def _only(request: Request, *methods: str) -> None:
    if request.method not in methods:
        allowed = ", ".join(methods)
        raise HttpError(
            405,
            "MethodNotAllowed",
            f"only {allowed} here: the gateway reads; share files with `p2phub publish`",
            (("allow", allowed),),
        )


def _paths(body: bytes, content_type: str) -> list[str]:
    """The paths of a paths-info form. Raises HttpError.

    Another content type is refused: a form of plain text is what a web page may send without
    asking.
    """
    if content_type.partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise HttpError(415, "UnsupportedMediaType", "send a form: paths=…&paths=…")
    try:
        fields = parse_qs(body.decode("ascii"), max_num_fields=PATHS_MAX)
    except ValueError:
        raise HttpError(
            400, "BadRequest", "the form cannot be read, or names too many paths"
        ) from None
    return fields.get("paths", [])


def _tree_page(request: Request, listing: Listing, path: str, commit: Headers) -> Response:
    cursor = request.query.get("cursor", ["0"])[-1]
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 9:
        raise HttpError(400, "BadRequest", "the cursor is not one of ours")
    start = int(cursor)
    stop = start + TREE_PAGE_ENTRIES
    entries = []
    headers = commit
    for index, entry in enumerate(hub.tree_entries(listing, path, request.asked("recursive"))):
        if index == stop:
            query = {key: values[-1] for key, values in request.query.items()}
            following = urlencode({**query, "cursor": str(stop)})
            here = request.raw_path.decode("ascii")
            link = f'<http://{request.headers["host"]}{here}?{following}>; rel="next"'
            headers = (*commit, ("link", link))
            break
        if index >= start:
            entries.append(entry)
    return json_response(entries, headers)


async def _live(receive: Receive, send: Send) -> None:
    """Nothing to start or stop: the node does that."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
