"""Who may ask the gateway: tools on this machine, not web pages that happen to be open on it.

A page from elsewhere can make a browser send requests to 127.0.0.1, and by giving its own host name
the address 127.0.0.1 (DNS rebinding) it could read the answers. It cannot choose the Host header,
so a name that is not ours is refused; and it cannot leave out Origin or Sec-Fetch-Site, so a
request that says it comes from elsewhere is refused whatever else it carries.

Source: CVE-2018-5702 (Transmission), CVE-2024-28224 (Ollama); Fetch Metadata.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from p2phub.gateway.http import HttpError, Request

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def check_source(request: Request, own_names: Collection[str]) -> None:
    """Raises HttpError (403) unless the request names this gateway and does not come from another
    site.

    own_names: host names allowed beside localhost, lower case.
    """
    host = request.headers.get("host", "")
    name = _host_name(host)
    if name is None or not _is_own(name, request.server_host, own_names):
        raise HttpError(
            403,
            "WrongHost",
            f"this gateway does not answer for the host {host[:80]!a}: use 127.0.0.1 or localhost, "
            "or name the host in the setting gateway_hosts",
        )
    origin = request.headers.get("origin")
    if origin is not None and origin != f"http://{host}":
        raise HttpError(403, "ForeignOrigin", "requests from web pages of other sites are refused")
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise HttpError(403, "ForeignOrigin", "requests from web pages of other sites are refused")


def _host_name(host: str) -> str | None:
    """The host in a Host header, lower case, without port and brackets; None if it is malformed."""
    if not host.isprintable() or any(c in host for c in "@/?#\\ ,"):
        return None  # Tabs, too, which the parser takes out of a name.
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # A port that is no number is found only when it is asked for.
    except ValueError:
        return None
    return parts.hostname


def _is_own(name: str, server_host: str, own_names: Collection[str]) -> bool:
    if name in LOCAL_NAMES or name in own_names:
        return True
    try:
        # The address the connection came in at, written as a number: no name was looked up, so none
        # can be rebound.
        return ip_address(name) == ip_address(server_host)
    except ValueError:
        return False
