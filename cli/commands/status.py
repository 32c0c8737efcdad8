"""`p2phub status`, `id` and `env`: the node itself."""

from __future__ import annotations

import time

import click

from p2phub.cli.options import Invocation, common, invocation
from p2phub.cli.progress import line
from p2phub.cli.render import duration, fields, out, out_json
from p2phub.display import size_text, visible
from p2phub.errors import UsageError


@click.command()
@common
@invocation
def status(run: Invocation) -> None:
    """What the node is doing, and what you should know."""
    with run.connect() as daemon:
        state = daemon.call("status")
    if run.json:
        out_json(state)
        return
    queued, held = state["announcements_queued"], state["announcements_held"]
    out(
        fields(
            [
                ("peer id", state["peer_id"]),
                *(("address", address) for address in state["addresses"]),
                ("gateway", state["gateway"] or "off"),
                ("running for", duration(state["uptime_s"])),
                ("peers", f"{state['peers']} connected, {state['routing_table']} in the table"),
                ("releases", state["releases"]),
                ("on disk", size_text(state["stored_bytes"])),
                ("received", size_text(state["received_bytes"])),
                ("sent", size_text(state["sent_bytes"])),
                ("announced", f"{held} keys" + (f", {queued} queued" if queued else "")),
            ]
        )
    )
    for transfer in state["transfers"]:
        named = transfer["reference"] or transfer["content_id"]
        out(f"{visible(named)}: {line(transfer['progress'], 200)}")
    for notice in state["notices"]:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(notice["time"]))
        out(f"{when}  {visible(notice['message'])}")


@click.command("id")
@common
@invocation
def identity(run: Invocation) -> None:
    """This node's peer id and the addresses others reach it at."""
    with run.connect() as daemon:
        found = daemon.call("identity")
    if run.json:
        out_json(found)
        return
    out(found["peer_id"])
    for address in found["addresses"]:
        out(visible(address))


@click.command()
@common
@invocation
def env(run: Invocation) -> None:
    """Print variables that make other tools read from this node: eval "$(p2phub env)"."""
    with run.connect() as daemon:
        gateway = daemon.call("about")["gateway"]
    if gateway is None:
        raise UsageError(
            "the gateway is off: set `gateway` to HOST:PORT and start the daemon again"
        )
    variables = {
        "HF_ENDPOINT": gateway,  # huggingface_hub, transformers, datasets, vLLM
        "MODEL_ENDPOINT": gateway,  # llama.cpp
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_ETAG_TIMEOUT": "60",
        "HF_HUB_DOWNLOAD_TIMEOUT": "300",
    }
    if run.json:
        out_json(variables)
    else:
        for name, value in variables.items():
            out(f"export {name}={value}")
