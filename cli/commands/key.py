"""`p2phub key`: signing keys of this home's publishers."""

from __future__ import annotations

import click

from p2phub.cli.options import Invocation, common, invocation
from p2phub.cli.render import note, out, out_json, table


@click.group()
@common
def key() -> None:
    """Signing keys. They stay in this home, encrypted, and never enter the daemon."""


@key.command()
@click.option(
    "--passphrase-file", metavar="F", help="Take the passphrase from F's first line (-: stdin)."
)
@common
@invocation
def create(run: Invocation, passphrase_file: str | None) -> None:
    """Make a new publisher: its keys, and the id that others trust it by."""
    from p2phub.cli.signing import create_publisher, read_passphrase

    publisher_id = create_publisher(run.home, read_passphrase(passphrase_file, new=True))
    folder = run.home.publisher_keys(publisher_id)
    if run.json:
        out_json({"publisher_id": publisher_id, "folder": str(folder)})
        return
    note(f"keys are in {folder}")
    note("move next-root.pem to a safe place: it alone can replace the others if they are stolen")
    note(f"others trust it by: p2phub trust add {publisher_id} --as PETNAME")
    out(publisher_id)


@key.command()
@common
@invocation
def ls(run: Invocation) -> None:
    """List the publishers whose keys are here."""
    from p2phub.cli.signing import key_rows

    rows = key_rows(run.home)
    if run.json:
        out_json(rows)
    elif not rows:
        note("no publisher yet: `p2phub key create` makes one; so does the first `p2phub publish`")
    else:
        shown = [
            (
                row["publisher_id"],
                " ".join(map(str, _list(row["keys"]))),
                len(_list(row["releases"])),
            )
            for row in rows
        ]
        out(table(shown, ("publisher id", "keys here", "releases"), right=(2,)))


def _list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value
