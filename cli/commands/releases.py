"""`p2phub ls`, `show` and `verify`: what is there, what it holds, whether it is still right."""

from __future__ import annotations

import click

from p2phub.cli.options import Invocation, common, invocation, peer_option
from p2phub.cli.progress import ProgressLine
from p2phub.cli.render import fields, note, out, out_json, plural, table
from p2phub.control.protocol import Json
from p2phub.display import size_text, visible
from p2phub.errors import CorruptChunk, DigestMismatch, ReleaseChanged


@click.command()
@common
@invocation
def ls(run: Invocation) -> None:
    """List what is held here, and what publishers you named have signed."""
    with run.connect() as daemon:
        rows = daemon.call("releases")
    if run.json:
        out_json(rows)
        return
    if not rows:
        note("nothing yet: `p2phub publish` a folder, or `p2phub trust add` a publisher")
        return
    out(
        table(
            [
                (
                    row["reference"],
                    row["kind"] or "?",
                    row["file_count"],
                    size_text(row["data_size"]),
                    state(row),
                    row["content_id"],
                )
                for row in rows
            ],
            ("release", "kind", "files", "size", "state", "content id"),
            right=(2, 3),
        )
    )


def state(row: Json) -> str:
    text = str(row["state"])
    if text == "partial" and row["data_size"]:
        text = f"{row['held_bytes'] * 100 // row['data_size']} %"
    # What is published is pinned from the start.
    return f"{text}, pinned" if row["is_pinned"] and text != "published" else text


@click.command()
@click.argument("reference", metavar="REF")
@peer_option
@common
@invocation
def show(run: Invocation, reference: str, peers: tuple[str, ...]) -> None:
    """Files, digests, signer and peers of a release, without fetching its data."""
    with run.connect() as daemon:
        view = daemon.call("show", reference=reference, peers=list(peers))
    if run.json:
        out_json(view)
        return
    signer = view["signer"]
    rows: list[tuple[str, object]] = [
        ("release", view["reference"]),
        ("content id", view["content_id"]),
        ("kind", view["kind"]),
        ("license", view["license"]),
        ("tags", ", ".join(view["tags"])),
        ("made from", ", ".join(view["base"])),
        ("trained on", ", ".join(view["datasets"])),
        ("size", f"{size_text(view['data_size'])} in {plural(len(view['files']), 'file')}"),
    ]
    if signer is not None:
        rows += [
            ("signed by", signer["petname"] or "a publisher you have not named"),
            ("publisher", signer["publisher_id"]),
            ("as", f"{signer['name']}@{signer['version']}"),
            ("status", f"{signer['status']} {signer['reason']}".strip()),
            (
                "freshness",
                f"{signer['freshness']}, seen from {plural(signer['seen_from'], 'peer')}",
            ),
        ]
    else:
        rows.append(("signed by", "nobody that is known here"))
    providers = view["providers"]
    rows.append(("peers", ", ".join(providers[:5]) if providers else "none known now"))
    out(fields(rows))
    out("")
    out(
        table(
            [
                (file["path"], size_text(file["size"]), held(file), file["sha256"], file["object"])
                for file in view["files"]
            ],
            ("file", "size", "held", "sha256", "content id"),
            right=(1, 2),
        )
    )


def held(file: Json) -> str:
    if file["complete"]:
        return "all"
    return f"{file['held_bytes'] * 100 // file['size']} %" if file["size"] else ""


@click.command()
@click.argument("reference", metavar="REF")
@common
@invocation
def verify(run: Invocation, reference: str) -> None:
    """Read everything held of a release again, recompute every digest, and look for files that were
    edited or removed where they lay.
    """
    with run.connect() as daemon, ProgressLine(run.json) as progress:
        found = daemon.call("verify", on_progress=progress.update, reference=reference)
    if run.json:
        out_json(found)
    faults = found["faults"]
    for fault in faults:
        note(f"{visible(fault['path'])}: {visible(fault['reason'])}")
    kinds = {fault["kind"] for fault in faults}
    what = f"{plural(len(faults), 'file')} of {reference}"
    if DigestMismatch.__name__ in kinds:
        raise DigestMismatch(f"{what}: not what the release states", faults=faults)
    if kinds - {ReleaseChanged.__name__}:
        raise CorruptChunk(
            f"{what}: damaged on this disk, and fetched again from peers that hold what is lacking",
            faults=faults,
        )
    if not run.json:
        missing = found["missing_bytes"]
        files = plural(found["file_count"], "file")
        if missing:
            files = f"{found['whole_count']:,} of {files}"
        rest = f"; {size_text(missing)} are not held here" if missing else ""
        out(f"verified {files}, {size_text(found['data_size'])}{rest}")
    if kinds:
        raise ReleaseChanged(f"{what}: edited, moved or removed where they lay", faults=faults)
