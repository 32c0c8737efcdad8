"""`p2phub cat`."""

from __future__ import annotations

import json
import re
import sys

import click

from p2phub.cli.options import Invocation, common, invocation, peer_option
from p2phub.cli.render import note
from p2phub.errors import UsageError

_RANGE = re.compile(r"([0-9]{1,18})-([0-9]{0,18})")


@click.command()
@click.argument("reference", metavar="REF")
@click.argument("path", metavar="[FILE]", required=False)
@click.option(
    "--range", "part", metavar="A-B", help="Bytes A to B, both counted from 0; `A-` to the end."
)
@peer_option
@common
@invocation
def cat(
    run: Invocation, reference: str, path: str | None, part: str | None, peers: tuple[str, ...]
) -> None:
    """Write a file of a release to stdout, or a part of it, fetching no more than that.

    FILE may be left out where REF names a single file. With --json a summary goes to stderr.
    """
    start, stop = parse_part(part)
    write = sys.stdout.buffer.write

    def on_data(data: bytes) -> None:
        write(data)

    with run.connect() as daemon:
        result = daemon.call(
            "read",
            on_data=on_data,
            reference=reference,
            path=path,
            start=start,
            stop=stop,
            peers=list(peers),
        )
    sys.stdout.buffer.flush()
    if run.json:
        note(json.dumps(result))


def parse_part(text: str | None) -> tuple[int, int | None]:
    """[start, stop) for `A-B`, B included as in curl. Raises UsageError."""
    if text is None:
        return 0, None
    found = _RANGE.fullmatch(text)
    if found is None:
        raise UsageError(f"--range: {text[:40]!a} is not of the form A-B, such as 0-99 or 100-")
    start, last = int(found[1]), int(found[2]) if found[2] else None
    if last is not None and last < start:
        raise UsageError(f"--range: {text} ends before it begins")
    return start, None if last is None else last + 1
