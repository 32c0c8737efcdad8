"""Options that every command has, and what they say: which home, and whether to speak JSON."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from p2phub.control.client import ControlClient
from p2phub.paths import HOME_VARIABLE, Home
from p2phub.paths import home as home_of

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class Invocation:
    """What one run of the program was asked for beside its command; click carries it as
    `ctx.obj`.
    """

    home_folder: str | None = None
    json: bool = False

    @property
    def home(self) -> Home:
        return home_of(self.home_folder)

    def connect(self) -> ControlClient:
        """A connection to the home's daemon. Raises DaemonNotRunning."""
        return ControlClient.connect(self.home)


def common(command: Callable[P, T]) -> Callable[P, T]:
    """Adds --home and --json, before or after the command's name; later ones win."""

    def keep_home(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.ensure_object(Invocation).home_folder = value

    def keep_json(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value:
            ctx.ensure_object(Invocation).json = True

    home = click.option(
        "--home",
        metavar="DIR",
        expose_value=False,
        callback=keep_home,
        is_eager=True,
        help=f"The node's folder [default: ${HOME_VARIABLE} or ~/.p2phub].",
    )
    json = click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=keep_json,
        is_eager=True,
        help="Results as JSON on stdout, errors as JSON on stderr.",
    )
    return home(json(command))


def invocation(command: Callable[..., T]) -> Callable[..., T]:
    """Passes the Invocation as the first argument."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> T:  # Any: click calls it with the command's options
        return command(click.get_current_context().ensure_object(Invocation), *args, **kwargs)

    return wrapped


def peer_option(command: Callable[P, T]) -> Callable[P, T]:
    """Adds --peer, which may be given several times."""
    return click.option(
        "--peer",
        "peers",
        metavar="MULTIADDR",
        multiple=True,
        help="A peer to ask first. Repeatable.",
    )(command)


def absolute(path: str) -> str:
    """A path as the daemon, which runs in another folder, must be told it."""
    return str(Path(path).expanduser().absolute())
