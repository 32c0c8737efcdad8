"""`p2phub fetch`."""

from __future__ import annotations

import click

from p2phub.cli.options import Invocation, absolute, common, invocation, peer_option
from p2phub.cli.progress import ProgressLine
from p2phub.cli.render import duration, note, out, out_json, parse_duration, plural
from p2phub.control.protocol import Json
from p2phub.display import size_text, visible
from p2phub.errors import UsageError


@click.command()
@click.argument("reference", metavar="REF")
@click.option(
    "-o", "--output", metavar="DIR", help="Put the files here; without it, under the home."
)
@click.option("--include", metavar="GLOB", multiple=True, help="Only files that match. Repeatable.")
@click.option("--exclude", metavar="GLOB", multiple=True, help="No files that match. Repeatable.")
@click.option("--allow-yanked", is_flag=True, help="Also what its publisher has withdrawn.")
@click.option(
    "--wait-for-room",
    metavar="TIME",
    default="1h",
    show_default=True,
    help="How long to wait for room, or for a disk that is away: 90s, 10m, 1h. 0: fail at once.",
)
@peer_option
@common
@invocation
def fetch(
    run: Invocation,
    reference: str,
    output: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    allow_yanked: bool,
    wait_for_room: str,
    peers: tuple[str, ...],
) -> None:
    """Get a release or a file, every byte verified, and print where it is.

    REF is petname/name[@version], a p2phub:// link, a content id (bafk…) or sha256:<64 hex>.
    What was verified stays when the command is stopped; the same command resumes. Where a disk
    becomes full, read-only or is gone, the fetch pauses, says what it waits for, and goes on by
    itself once it can; it gives up after --wait-for-room without a new byte.
    """
    try:
        room_wait_s = parse_duration(wait_for_room)
    except ValueError as error:
        raise UsageError(f"--wait-for-room: {error}") from None
    with run.connect() as daemon, ProgressLine(run.json) as progress:
        result = daemon.call(
            "fetch",
            on_progress=progress.update,
            reference=reference,
            destination=absolute(output) if output is not None else None,
            include=list(include),
            exclude=list(exclude),
            allow_yanked=allow_yanked,
            room_wait_s=room_wait_s,
            peers=list(peers),
        )
    if run.json:
        out_json(result)
        return
    describe(result)
    out(result["path"])


def describe(result: Json) -> None:
    """Who signed it, where the bytes came from, and what went wrong on the way."""
    signer = result["signer"]
    if signer is not None:
        named = visible(signer["petname"] or signer["publisher_id"])
        seen = plural(signer["seen_from"], "peer")
        note(
            f"signed by {named} as {visible(signer['name'])}@{visible(signer['version'])}, "
            f"seen from {seen}"
        )
        if signer["status"] != "active":
            note(f"its publisher calls it {signer['status']}: {visible(signer['reason'])}")
        if signer["freshness"] != "fresh":
            note(f"what is known of this publisher is {signer['freshness']}")
    else:
        note("no signature is known; the content id itself was verified")
    note(
        f"{plural(result['file_count'], 'file')}, {size_text(result['data_size'])}: "
        f"{_came_from(result)} ({result['method']})"
    )
    if result["paused_seconds"] >= 0.5:
        note(f"it paused for {duration(result['paused_seconds'])}, until the disk took files again")
    for peer in result["peers"]:
        if peer["fault"]:
            note(f"peer {visible(peer['peer_id'])} was dropped: {visible(peer['fault'])}")
    for warning in result["warnings"]:
        note(f"warning: {visible(warning)}")


def _came_from(result: Json) -> str:
    """How much came from peers, how fast, and how much from this disk."""
    fetched = result["bytes_fetched"]
    if not fetched:
        return "all of it from this disk"
    senders = [peer for peer in result["peers"] if peer["bytes"]]
    rate = fetched / max(result["seconds"] - result["paused_seconds"], 0.001)
    return (
        f"{size_text(fetched)} from {plural(len(senders), 'peer')} at {size_text(rate)}/s, "
        f"{size_text(result['bytes_reused'])} from this disk"
    )
