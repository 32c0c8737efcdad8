"""`p2phub rm`, `pin`, `unpin`, `gc`, `scrub` and `fsck`: what is kept on this disk, how it is."""

from __future__ import annotations

import click

from p2phub.cli.options import Invocation, common, invocation
from p2phub.cli.progress import ProgressLine
from p2phub.cli.render import note, out, out_json, plural
from p2phub.control.protocol import Json
from p2phub.display import size_text, visible
from p2phub.errors import CorruptChunk, ReleaseChanged


@click.command()
@click.argument("reference", metavar="REF")
@common
@invocation
def rm(run: Invocation, reference: str) -> None:
    """Keep a release no longer: its tree under the home goes, and all that nothing else needs.

    Files that you published or fetched with -o stay where they are. A pin does not stand in the
    way.
    """
    with run.connect() as daemon:
        removed = daemon.call("remove", reference=reference)
    if run.json:
        out_json(removed)
        return
    for folder in removed["folders"]:
        note(f"{visible(folder)} is yours and stays")
    for name in removed["references"]:
        out(visible(name))
    tell(removed["freed"])


@click.command()
@click.argument("reference", metavar="REF")
@common
@invocation
def pin(run: Invocation, reference: str) -> None:
    """Never remove a release to make room. What you publish is pinned from the start."""
    change(run, reference, pinned=True)


@click.command()
@click.argument("reference", metavar="REF")
@common
@invocation
def unpin(run: Invocation, reference: str) -> None:
    """Let a release be removed when room is needed, the oldest first."""
    change(run, reference, pinned=False)


def change(run: Invocation, reference: str, *, pinned: bool) -> None:
    with run.connect() as daemon:
        found = daemon.call("pin", reference=reference, pinned=pinned)
    if run.json:
        out_json(found)
        return
    for name in found["references"]:
        out(f"{visible(name)} is {'pinned' if pinned else 'no longer pinned'}")


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@common
@invocation
def gc(run: Invocation, dry_run: bool) -> None:
    """Free what no release needs and nobody uses now.

    What was read in passing stays for an hour, an interrupted fetch for a week.
    """
    with run.connect() as daemon:
        freed = daemon.call("collect", dry_run=dry_run)
    if run.json:
        out_json(freed)
        return
    tell(freed)


@click.command()
@common
@invocation
def scrub(run: Invocation) -> None:
    """Read everything that is held again, the longest unread first, and set aside what is damaged.

    The daemon does so by itself, slowly (see scrub_rate in `p2phub config`). Stopped, it goes on
    where it was.
    """
    with run.connect() as daemon, ProgressLine(run.json) as progress:
        found = daemon.call("scrub", on_progress=progress.update)
    if run.json:
        out_json(found)
    if found["damaged_count"]:
        raise CorruptChunk(
            f"{plural(found['damaged_count'], 'chunk')} damaged on this disk: set aside,"
            " shared no more, and fetched again from peers that hold what is lacking. To wait for"
            " it and be told what nobody has, run p2phub fsck --repair; and check the disk",
            **found,
        )
    if not run.json:
        out(f"{size_text(found['read_bytes'])} read, all of it right")


@click.command()
@click.option("--repair", is_flag=True, help="Repair from what is here and from peers.")
@common
@invocation
def fsck(run: Invocation, repair: bool) -> None:
    """Check the whole store: index, files, packs and journal against each other, every byte against
    its name, and every release that is kept for what it lacks.

    What is read wrong is set aside and shared no more, with and without --repair. With it the
    index and the journal are put right, and what is lacking or wrong is fetched again from peers,
    also what your own edits took from a release that you keep. Where no peer can be reached it says
    so within seconds; what the disk damaged is asked for again every hour.
    """
    with run.connect() as daemon, ProgressLine(run.json) as progress:
        found = daemon.call("check", on_progress=progress.update, repair=repair)
    if run.json:
        out_json(found)
    else:
        for what in found["inconsistencies"]:
            note(visible(what))
        for release in found["releases"]:
            note(visible(mended(release)))
        out(f"{size_text(found['read_bytes'])} read and right")
    if not found["is_right"]:
        end = "" if repair else "; p2phub fsck --repair puts right what can be"
        is_damaged = found["damaged_count"] or found["inconsistencies"]
        fault = CorruptChunk if is_damaged else ReleaseChanged  # the user's own edits, most often
        raise fault(f"not everything that is kept here is whole and right{end}", **found)


def mended(release: Json) -> str:
    """What became of one release, as a line."""
    names = release["files"]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    what = f"{release['reference']}: {shown or 'its file list'} was lacking or wrong"
    if release["failure"]:
        return f"{what}, and still is: {release['failure']}"
    return f"{what}: whole again, {size_text(release['fetched_bytes'])} from peers"


def tell(freed: Json) -> None:
    verb = "can be freed" if freed["dry_run"] else "freed"
    files = plural(freed["file_count"], "file")
    chunks = plural(freed["chunk_count"], "small file or document", "small files and documents")
    note(f"{size_text(freed['freed_bytes'])} {verb}: {files}, {chunks}")
    if freed["forgotten_count"]:
        yours = plural(freed["forgotten_count"], "file")
        note(f"{yours} of them {'are' if freed['forgotten_count'] > 1 else 'is'} yours and stays")
