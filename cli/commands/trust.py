"""`p2phub trust`: local names for publishers."""

from __future__ import annotations

import time

import click

from p2phub.cli.options import Invocation, common, invocation
from p2phub.cli.render import duration, note, out, out_json, table
from p2phub.control.protocol import Json
from p2phub.display import visible


@click.group()
@common
def trust() -> None:
    """Name publishers whose releases you trust. Names are yours alone and are never sent."""


@trust.command()
@click.argument("publisher", metavar="PUBLISHER_ID")
@click.option(
    "--as", "petname", metavar="PETNAME", required=True, help="What you call this publisher."
)
@common
@invocation
def add(run: Invocation, publisher: str, petname: str) -> None:
    """Trust a publisher: its releases are then PETNAME/name."""
    with run.connect() as daemon:
        view = daemon.call("trust_add", publisher=publisher, petname=petname)
    if run.json:
        out_json(view)
    else:
        out(f"{visible(view['petname'])} is {view['publisher_id']}")


@trust.command()
@common
@invocation
def ls(run: Invocation) -> None:
    """List the publishers you named."""
    with run.connect() as daemon:
        rows = daemon.call("trust_list")
    if run.json:
        out_json(rows)
    elif not rows:
        note("no publisher has a name here yet")
    else:
        out(
            table(
                [
                    (
                        row["petname"],
                        "own" if row["own"] else row["freshness"],
                        row["releases"],
                        last_seen(row),
                        row["publisher_id"],
                    )
                    for row in rows
                ],
                ("petname", "state", "releases", "last seen", "publisher id"),
                right=(2,),
            )
        )


def last_seen(row: Json) -> str:
    if row["own"]:
        return ""
    return f"{duration(time.time() - row['last_seen'])} ago" if row["last_seen"] else "never"


@trust.command()
@click.argument("petname")
@common
@invocation
def rm(run: Invocation, petname: str) -> None:
    """Forget a publisher's name; what was fetched stays."""
    with run.connect() as daemon:
        view = daemon.call("trust_remove", petname=petname)
    if run.json:
        out_json(view)
    else:
        out(f"{visible(view['petname'])} no longer stands for {view['publisher_id']}")


@trust.command()
@click.argument("petname", required=False)
@common
@invocation
def reset(run: Invocation, petname: str | None) -> None:
    """Forget what was seen signed by a publisher, or by all: after a halt, or where the floor was
    lost.

    An attacker gains by this: do it only after you have asked the publisher.
    """
    with run.connect() as daemon:
        rows = daemon.call("trust_reset", petname=petname)
    if run.json:
        out_json(rows)
    else:
        for row in rows:
            out(f"{visible(row['petname'])} begins anew")
