"""`p2phub export`: a held release as plain files, in the Hub's cache, or for ollama."""

from __future__ import annotations

import click

from p2phub.cli.options import Invocation, absolute, common, invocation
from p2phub.cli.progress import ProgressLine
from p2phub.cli.render import note, out, out_json, plural
from p2phub.display import size_text, visible
from p2phub.errors import UsageError
from p2phub.paths import hub_cache, ollama_models


@click.command()
@click.argument("first", metavar="REF|hf|ollama")
@click.argument("second", metavar="DIR|REF")
@click.option(
    "--link",
    type=click.Choice(["hardlink"]),
    help="Where blocks can't be shared, no copies but hard links: an edit of one changes both.",
)
@click.option("--as", "name", metavar="NAME", help="What the tool shall call it.")
@click.option("--into", metavar="DIR", help="The tool's folder [default: as the tool finds it].")
@common
@invocation
def export(
    run: Invocation,
    first: str,
    second: str,
    link: str | None,
    name: str | None,
    into: str | None,
) -> None:
    """Lay a release that is held here out for other programs, whole.

    \b
    p2phub export REF DIR       plain files
    p2phub export hf REF        into the Hugging Face Hub's cache ($HF_HUB_CACHE, $HF_HOME)
    p2phub export ollama REF    a GGUF file, into ollama's models ($OLLAMA_MODELS)

    Blocks are shared where the file system can; else files are copied, or linked with --link: then
    an edit here is an edit there too, and this node holds that file no longer.
    """
    tool, reference = (first, second) if first in ("hf", "ollama") else ("folder", first)
    if tool == "folder":
        if name or into:
            raise UsageError("--as and --into are for hf and ollama: name the folder itself")
        folder = absolute(second)
    else:
        folder = str(hub_cache(into) if tool == "hf" else ollama_models(into))
    with run.connect() as daemon, ProgressLine(run.json) as progress:
        done = daemon.call(
            "export",
            on_progress=progress.update,
            reference=reference,
            tool=tool,
            folder=folder,
            name=name or "",
            hardlink=link is not None,
        )
    if run.json:
        out_json(done)
        return
    note(
        f"{plural(done['file_count'], 'file')}, {size_text(done['data_size'])}: {done['method']}; "
        f"{size_text(done['extra_bytes'])} more on disk"
    )
    if link and "copy" in done["method"]:
        note(
            "what was copied is small, lies on another disk, or the file system takes no second"
            " names"
        )
    if tool != "folder":
        note(f"{tool} finds it as {visible(done['name'])}")
    out(visible(done["path"]))
