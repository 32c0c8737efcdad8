"""`p2phub`: finds the command, runs it, and turns whatever goes wrong into a message and an exit
code.

Commands are imported when they are called, so that `p2phub --help` answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Final, NamedTuple

import click

from p2phub.cli.messages import INTERRUPTED, show_bug, show_error
from p2phub.cli.options import Invocation, common
from p2phub.errors import P2phubError, UsageError


class Entry(NamedTuple):
    """Where a command is, and its line in --help: known without importing it."""

    module: str  # in p2phub.cli.commands
    attribute: str
    help: str


SECTIONS: Final[dict[str, dict[str, Entry]]] = {
    "Releases": {
        "publish": Entry("publish", "publish", "Sign a folder as a release and share it."),
        "fetch": Entry("fetch", "fetch", "Get a release or file, verified (get, pull, download)."),
        "cat": Entry("cat", "cat", "Write a file, or a part of it, to stdout."),
        "ls": Entry("releases", "ls", "List what is held here and known from publishers."),
        "show": Entry("releases", "show", "Files, digests, signer and peers of a release."),
        "verify": Entry("releases", "verify", "Read a release again and compare every digest."),
        "export": Entry("export", "export", "Lay a release out as files, for hf or for ollama."),
        "import": Entry("imports", "import_", "Share what hf, ollama or a folder has, compared."),
    },
    "Disk": {
        "rm": Entry("room", "rm", "Keep a release no longer, and free its room."),
        "pin": Entry("room", "pin", "Never remove a release to make room."),
        "unpin": Entry("room", "unpin", "Let a release be removed to make room."),
        "gc": Entry("room", "gc", "Free what no release needs."),
        "fsck": Entry("room", "fsck", "Check the whole store; repair it from here and from peers."),
        "scrub": Entry("room", "scrub", "Read everything held again, to find rot."),
    },
    "Trust": {
        "key": Entry("key", "key", "Make and list signing keys."),
        "trust": Entry("trust", "trust", "Name publishers whose releases you trust."),
    },
    "Network": {
        "peers": Entry("peers", "peers", "List connected peers."),
        "connect": Entry("peers", "connect", "Connect to a peer."),
        "bootstrap": Entry("peers", "bootstrap", "Peers to join the network by."),
        "limit": Entry("limit", "limit", "How fast this node may download and upload."),
        "id": Entry("status", "identity", "This node's peer id and addresses."),
    },
    "Node": {
        "daemon": Entry("daemon", "daemon", "Run a node."),
        "status": Entry("status", "status", "What the node is doing."),
        "config": Entry("config", "config", "Show or change settings."),
        "env": Entry("status", "env", "Variables that point other tools at this node."),
        "demo": Entry("demo", "demo", "See all of it work on this machine, with a real model."),
    },
}
ALIASES: Final = {"get": "fetch", "pull": "fetch", "download": "fetch"}
COMMANDS: Final = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class LazyGroup(click.Group):
    """A group that knows its commands' names and help, and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(ALIASES.get(cmd_name, cmd_name))
        if entry is None:
            return None
        found = getattr(
            importlib.import_module(f"p2phub.cli.commands.{entry.module}"), entry.attribute
        )
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return ALIASES.get(name or "", name), command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.help) for name, entry in section.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every command has --json and --help. Results go to stdout, all else to stderr.",
)
@click.version_option(package_name="p2phub", prog_name="p2phub")
@common
def cli() -> None:
    """Publish, find and fetch AI models and datasets between peers: signed, verified, without a
    hub.
    """


def main(arguments: list[str] | None = None) -> None:
    """The program `p2phub`."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run a command line; its exit code."""
    invocation = Invocation()
    try:
        # As click's own main does it, which would end us with 1 where the reader of stdout is gone.
        with cli.make_context("p2phub", list(arguments), obj=invocation) as context:
            outcome = cli.invoke(context)
        sys.stdout.flush()
        return outcome if isinstance(outcome, int) else 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as bare:
        click.echo(bare.format_message(), err=True)  # the help itself, in its own lines
        return UsageError.exit_code
    except click.ClickException as wrong:
        # A line that is not understood ends before click comes to the --json behind the fault.
        as_json = invocation.json or "--json" in arguments
        if isinstance(wrong, click.UsageError) and wrong.ctx is not None and not as_json:
            click.echo(wrong.ctx.get_usage(), err=True)
        return show_error(UsageError(wrong.format_message()), as_json)
    except P2phubError as error:
        return show_error(error, invocation.json)
    except BrokenPipeError:
        # Whoever read our output has enough; Python must not complain of it on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as bug:
        return show_bug(bug, invocation.json)
