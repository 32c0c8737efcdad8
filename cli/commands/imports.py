"""`p2phub import`: what another tool has downloaded, compared byte by byte and shared."""

from __future__ import annotations

from pathlib import Path

import click

from p2phub.cli.commands.publish import commit
from p2phub.cli.options import Invocation, absolute, common, invocation
from p2phub.cli.progress import ProgressLine
from p2phub.cli.render import note, out, out_json, plural
from p2phub.core.trust.versions import normal_version
from p2phub.display import size_text
from p2phub.errors import BadReleaseName, UsageError
from p2phub.paths import hub_cache, ollama_models
from p2phub.proto.content_id import parse_content_id
from p2phub.proto.names import is_name


@click.command("import")
@click.argument("first", metavar="DIR|hf|ollama")
@click.argument("second", metavar="[REPO|NAME]", required=False)
@click.option("--revision", default="main", show_default=True, help="Of a Hub repository.")
@click.option("--kind", type=click.Choice(["model", "dataset"]), default="model", show_default=True)
@click.option("--license", default="", metavar="SPDX", help="Such as Apache-2.0.")
@click.option("--from", "source", metavar="DIR", help="The tool's folder [default: its own].")
@click.option("--name", help="Sign it as a release of this name.")
@click.option("--version", help="And of this version.")
@click.option("--publisher", metavar="ID", help="Whose keys sign, where this home has several.")
@click.option("--passphrase-file", metavar="F", help="Take the passphrase from F's first line.")
@common
@invocation
def import_(
    run: Invocation,
    first: str,
    second: str | None,
    revision: str,
    kind: str,
    license: str,
    source: str | None,
    name: str | None,
    version: str | None,
    publisher: str | None,
    passphrase_file: str | None,
) -> None:
    """Share what another tool has downloaded, without a second copy.

    \b
    p2phub import hf ORG/NAME       from the Hugging Face Hub's cache
    p2phub import ollama NAME:TAG   from ollama's models
    p2phub import DIR               plain files

    Every byte is read and compared with what the tool's own names promise, before anybody is told
    of it. Without --name and --version the result is a content id that nobody signed.
    """
    tool = first if second is not None else "folder"
    if tool not in ("hf", "ollama", "folder"):
        raise UsageError("what comes first is hf, ollama, or a folder alone")
    if first in ("hf", "ollama") and second is None and not Path(first).is_dir():
        what = "repository, as in p2phub import hf ORG/NAME"
        if first == "ollama":
            what = "model, as in p2phub import ollama NAME:TAG"
        raise UsageError(f"name the {what}")
    if (name is None) != (version is None):
        raise UsageError("a signed release needs both --name and --version")
    if tool == "folder":
        folder = absolute(first)
    else:
        folder = str(hub_cache(source) if tool == "hf" else ollama_models(source))
    from p2phub.cli.signing import Unlocked, choose_publisher, create_publisher, read_passphrase

    unlocked = None
    if name is not None and version is not None:
        version = normal_version(version)
        if not is_name(name):
            raise BadReleaseName(f"{name[:120]!a} cannot name a release", name=name[:120])
    with run.connect() as daemon:
        if name is not None:
            chosen = choose_publisher(run.home, publisher)
            passphrase = read_passphrase(passphrase_file, new=chosen is None)
            if chosen is None:
                chosen = create_publisher(run.home, passphrase)
                note(f"made a new publisher, {chosen}; see `p2phub key ls`")
            unlocked = Unlocked(run.home, chosen, passphrase)
        with ProgressLine(run.json) as progress:
            taken = daemon.call(
                "take_in",
                on_progress=progress.update,
                tool=tool,
                folder=folder,
                name=second or "",
                revision=revision,
                kind=kind,
                license=license,
                keep=unlocked is None,
            )
        prepared = taken["prepared"]
        published = None
        if unlocked is not None and name is not None and version is not None:
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
        out_json({**taken, "published": published})
        return
    note(
        f"{plural(prepared['file_count'], 'file')}, {size_text(prepared['data_size'])}, taken by "
        f"{prepared['method']}: {size_text(prepared['extra_bytes'])} more on disk"
    )
    if tool != "folder":
        note(f"{plural(taken['compared_count'], 'file')} compared with {tool}'s own names for them")
    if tool != "folder" and taken["uncompared_count"]:
        note(
            f"warning: nothing says what {plural(taken['uncompared_count'], 'file')} must be; "
            "their bytes were taken as they are"
        )
    if published is not None:
        out(f"{published['reference']} {published['content_id']}")
    else:
        out(taken["content_id"])
