"""`p2phub limit`: how fast this node may download and upload."""

from __future__ import annotations

import click

from p2phub.cli.options import Invocation, common, invocation
from p2phub.cli.render import out, out_json
from p2phub.core.swarm.schedule import rate_text
from p2phub.display import visible


@click.command()
@click.option("--down", metavar="RATE", help="Download limit: 50M, 500K bytes a second, or off.")
@click.option("--up", metavar="RATE", help="Upload limit: 10M, 500K bytes a second, or off.")
@click.option("--peer", metavar="PEER-ID", help="Limit this peer alone, beside all together.")
@click.option(
    "--schedule",
    metavar="TEXT",
    help="Other limits at some times: `22:00-07:00 down=off up=50M, 12:00-13:00 up=1M`, or off.",
)
@common
@invocation
def limit(
    run: Invocation, down: str | None, up: str | None, peer: str | None, schedule: str | None
) -> None:
    """Show or change rate limits, at once and for later starts.

    They hold for all transfers together, and win over the settings down_rate and up_rate.
    """
    with run.connect() as daemon:
        limits = daemon.call("limit", down=down, up=up, peer=peer, schedule=schedule)
    if run.json:
        out_json(limits)
        return
    out(f"down {rate_text(limits['down'])}, up {rate_text(limits['up'])}")
    for own in limits["peers"]:
        name = visible(own["peer_id"])
        out(f"{name}: down {rate_text(own['down'])}, up {rate_text(own['up'])}")
    if limits["schedule"]:
        out(f"schedule {visible(limits['schedule'])}")
    if limits["window"]:
        now = f"down {rate_text(limits['down_now'])}, up {rate_text(limits['up_now'])}"
        out(f"now {now}, by {visible(limits['window'])}")
