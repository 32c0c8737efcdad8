"""`p2phub publish`: the daemon reads the folder, this process signs, the daemon shares."""

from __future__ import annotations

import base64
from itertools import count
from typing import TYPE_CHECKING

import click

from p2phub.cli.options import Invocation, absolute, common, invocation
from p2phub.cli.progress import ProgressLine
from p2phub.cli.render import note, out, out_json, plural
from p2phub.control.client import ControlClient
from p2phub.control.protocol import Json
from p2phub.core.trust.versions import normal_version
from p2phub.display import size_text, visible
from p2phub.errors import BadReleaseName, TrustError
from p2phub.proto.content_id import parse_content_id
from p2phub.proto.names import is_name

if TYPE_CHECKING:
    from p2phub.cli.signing import Unlocked

OWN_PETNAME = "me"  # what a user's own publisher is called where it has no name yet


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False))
@click.option("--name", required=True, help="What the release is called: letters, digits, . _ -")
@click.option("--version", required=True, help="PEP 440, such as 1.0. A version never changes.")
@click.option("--kind", type=click.Choice(["model", "dataset"]), default="model", show_default=True)
@click.option("--license", default="", metavar="SPDX", help="Such as Apache-2.0.")
@click.option("--tag", "tags", multiple=True, help="Repeatable.")
@click.option(
    "--base", multiple=True, metavar="REF", help="A model this was made from. Repeatable."
)
@click.option(
    "--dataset", "datasets", multiple=True, metavar="REF", help="Training data. Repeatable."
)
@click.option(
    "--card", default="", metavar="FILE", help="The file that describes it [default: README.md]."
)
@click.option("--publisher", metavar="ID", help="Whose keys sign, where this home has several.")
@click.option(
    "--passphrase-file", metavar="F", help="Take the passphrase from F's first line (-: stdin)."
)
@common
@invocation
def publish(
    run: Invocation,
    folder: str,
    name: str,
    version: str,
    kind: str,
    license: str,
    tags: tuple[str, ...],
    base: tuple[str, ...],
    datasets: tuple[str, ...],
    card: str,
    publisher: str | None,
    passphrase_file: str | None,
) -> None:
    """Sign a folder as a release and share it. Its files stay where they are.

    The first time, this makes the publisher's keys too. The last line printed is the link to the
    release and its content id.
    """
    from p2phub.cli.signing import Unlocked, choose_publisher, create_publisher, read_passphrase

    version = normal_version(version)
    if not is_name(name):
        raise BadReleaseName(f"{name[:120]!a} cannot name a release", name=name[:120])
    with run.connect() as daemon:
        # The passphrase comes first: nobody waits for a terabyte to be read to mistype it.
        chosen = choose_publisher(run.home, publisher)
        passphrase = read_passphrase(passphrase_file, new=chosen is None)
        if chosen is None:
            chosen = create_publisher(run.home, passphrase)
            note(f"made a new publisher, {chosen}; see `p2phub key ls`")
        unlocked = Unlocked(run.home, chosen, passphrase)
        with ProgressLine(run.json) as progress:
            prepared = daemon.call(
                "publish_prepare",
                on_progress=progress.update,
                folder=absolute(folder),
                kind=kind,
                license=license,
                tags=list(tags),
                base=list(base),
                datasets=list(datasets),
                card=card,
            )
        files = unlocked.sign_release(
            name,
            version,
            manifest_digest=parse_content_id(prepared["manifest"]),
            manifest_length=prepared["manifest_length"],
            manifest_sha256=bytes.fromhex(prepared["manifest_sha256"]),
            kind=kind,
            license=license,
            addresses=prepared["addresses"],
        )
        published = commit(daemon, unlocked, name, version, files)
    if run.json:
        out_json({**prepared, **published})
        return
    note(
        f"{plural(prepared['file_count'], 'file')}, {size_text(prepared['data_size'])}, taken by "
        f"{prepared['method']}: {size_text(prepared['extra_bytes'])} more on disk"
    )
    note(
        f"signed by {published['publisher_id']}, here {visible(published['petname'])}; "
        f"others trust it by: p2phub trust add {published['publisher_id']} --as PETNAME"
    )
    out(f"{published['reference']} {published['content_id']}")


def commit(
    daemon: ControlClient, unlocked: Unlocked, name: str, version: str, files: dict[str, bytes]
) -> Json:
    """Hand the signed files over; all of them where the daemon has not seen those before."""
    petname = free_petname(daemon, unlocked.publisher_id)
    for offered in (files, None):
        sent = unlocked.files() if offered is None else offered
        try:
            result = daemon.call(
                "publish_commit",
                publisher_id=unlocked.publisher_id,
                name=name,
                version=version,
                petname=petname,
                files={key: base64.b64encode(data).decode("ascii") for key, data in sent.items()},
            )
        except TrustError:
            if offered is None:
                raise
            continue
        assert isinstance(result, dict)
        return result
    raise AssertionError("the second attempt returns or raises")


def free_petname(daemon: ControlClient, publisher_id: str) -> str:
    """The petname that this publisher has here, or one that is free."""
    taken = {row["petname"]: row["publisher_id"] for row in daemon.call("trust_list")}
    for petname, owner in taken.items():
        if owner == publisher_id:
            return str(petname)
    free = (f"{OWN_PETNAME}-{number}" for number in count(2))
    return (
        OWN_PETNAME
        if OWN_PETNAME not in taken
        else next(name for name in free if name not in taken)
    )
