"""The daemon's process: one home, one lock, one node, its doors, and a clean end.

`p2phub daemon` becomes `python -m p2phub.daemon`. It prints exactly one line on stdout, when it
serves: `ready <multiaddr with /p2p/id> <gateway url>` (`-` where the gateway is off). All else goes
to stderr and to daemon.log in the home.

SIGTERM or Ctrl-C ends it: doors first, then the network, then the store. A second signal, or
ENDING_TIMEOUT_S, ends it at once; the store survives that as it survives a power cut.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import json
import logging
import logging.handlers
import os
import resource
import signal
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import version
from types import FrameType
from typing import Final

import trio

from p2phub.config import Settings, about, parse_config, plain_value, setting_names
from p2phub.control.home_folder import lock_home, prepare_home, read_config, read_settings
from p2phub.control.methods import DaemonFacts
from p2phub.control.protocol import error_object
from p2phub.control.server import serve_control
from p2phub.durable import failures
from p2phub.errors import P2phubError, expected
from p2phub.gateway.app import Gateway
from p2phub.gateway.server import listen, serve_gateway
from p2phub.node.node import open_node
from p2phub.paths import Home
from p2phub.paths import home as home_of

ENDING_TIMEOUT_S: Final = 4.5  # scripts wait five
GARBAGE_OBJECTS_MAX: Final = 5_000  # before a look for cycles: a list of files makes many objects
GARBAGE_LOOKS_MAX: Final = 2  # before one at all that these left, which stops all threads longer
LOG_BYTES_MAX: Final = 5 << 20  # of daemon.log; one older file is kept

log = logging.getLogger("p2phub.daemon")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal; the exit code."""
    options = _parse(arguments)
    try:
        home = home_of(options.home)
        prepare_home(home)
        lock = lock_home(home)
        flags = _flags(options, home)
        settings = read_settings(home, flags)
        _log_to(home, settings.log_level)
        _raise_descriptor_limit()
        gc.freeze()  # what was imported stays: never looked through again
        gc.set_threshold(GARBAGE_OBJECTS_MAX, GARBAGE_LOOKS_MAX)
        return _run(home, settings, lock, options.json)
    except P2phubError as error:
        return _refuse(error, options.json)
    except KeyboardInterrupt:
        return 130


def _run(home: Home, settings: Settings, lock: int, as_json: bool) -> int:
    ending = _Ending()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ending.on_signal)
    try:
        trio.run(_serve, home, settings, ending, as_json)
    except Exception as error:
        known = expected(error)
        if known is None:
            log.exception("the daemon ends by a fault of its own")
            return 1
        return _refuse(known, as_json)
    finally:
        ending.on_ended()
        os.close(lock)
    log.info("ended")
    return 0


async def _serve(home: Home, settings: Settings, ending: _Ending, as_json: bool) -> None:
    with trio.CancelScope() as scope:
        ending.begin(scope)
        # Before the node, so that a taken port is said at once.
        with contextlib.ExitStack() as stack:
            listening = None
            if settings.gateway is not None:
                listening = stack.enter_context(listen(settings.gateway))
            async with open_node(home, settings) as node, trio.open_nursery() as doors:
                url = None
                if listening is not None:
                    gateway = Gateway(node, settings.gateway_hosts)
                    url = await doors.start(serve_gateway, gateway, listening)
                facts = DaemonFacts(
                    version=version("p2phub"),
                    pid=os.getpid(),
                    home=home.root,
                    gateway=url,
                    settings={
                        name: plain_value(getattr(settings, name)) for name in setting_names()
                    },
                )
                await doors.start(serve_control, node, facts, home.control_socket)
                identity = await node.identity()
                log.info("serving as %s at %s", identity.peer_id, ", ".join(identity.addresses))
                address = (
                    identity.addresses[0] if identity.addresses else f"/p2p/{identity.peer_id}"
                )
                if as_json:
                    print(json.dumps({"address": address, "gateway": url}), flush=True)
                else:
                    print(f"ready {address} {url or '-'}", flush=True)
                await trio.sleep_forever()


class _Ending:
    """What a signal does: the first ends the daemon in order, the second at once."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._scope: trio.CancelScope | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._timer = threading.Timer(ENDING_TIMEOUT_S, self._give_up)
        self._timer.daemon = True

    def begin(self, scope: trio.CancelScope) -> None:
        """From now on the first signal cancels `scope`."""
        self._scope, self._token = scope, trio.lowlevel.current_trio_token()
        if self._begun.is_set():
            scope.cancel()

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Called by Python in the main thread, between two of its instructions."""
        if self._begun.is_set():
            os._exit(128 + number)
        self._begun.set()
        self._timer.start()
        if self._token is not None and self._scope is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._scope.cancel)

    def on_ended(self) -> None:
        self._timer.cancel()

    def _give_up(self) -> None:
        # Where it hangs is worth more than a silent exit.
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        os._exit(1)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="p2phub daemon", allow_abbrev=False)
    parser.add_argument("--home", metavar="DIR", help="the node's folder")
    parser.add_argument("--json", action="store_true", help="the ready line as JSON")
    for name in setting_names():
        entry = about(name)
        if entry.flag.startswith("--no-"):
            parser.add_argument(entry.flag, dest=name, action="store_false", default=None)
        elif entry.flag:
            repeated = name in ("listen", "bootstrap")
            action = "append" if repeated else "store"
            parser.add_argument(entry.flag, dest=name, action=action, help=entry.help)
    return parser.parse_args(arguments)


def _flags(options: argparse.Namespace, home: Home) -> dict[str, object]:
    """The settings given as flags.

    Bootstrap peers are added to those of config.toml, not put in their place.
    """
    flags = {
        name: value
        for name in setting_names()
        if (value := getattr(options, name, None)) is not None
    }
    if "bootstrap" in flags:
        kept = parse_config(read_config(home.config)).get("bootstrap", ())
        assert isinstance(kept, tuple)
        flags["bootstrap"] = [*kept, *flags["bootstrap"]]
    return flags


def _refuse(error: P2phubError, as_json: bool) -> int:
    if as_json:
        text = json.dumps({"error": error_object(error)})
    else:
        text = f"p2phub: {_visible(str(error))}"
    print(text, file=sys.stderr, flush=True)
    return error.exit_code


def _log_to(home: Home, level: str) -> None:
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    with failures(home.log):
        handlers.append(
            logging.handlers.RotatingFileHandler(home.log, maxBytes=LOG_BYTES_MAX, backupCount=1)
        )
    for handler in handlers:
        handler.setFormatter(_Visible("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=handlers)
    logging.getLogger("p2phub").setLevel(level.upper())
    logging.raiseExceptions = False  # A full disk must not fill stderr with tracebacks, too.


class _Visible(logging.Formatter):
    """Strangers' words in log lines cannot move a terminal's cursor or forge a line."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = _visible(record.getMessage())
        record.asctime = self.formatTime(record)
        text = self.formatMessage(record)
        if record.exc_info:
            trace = self.formatException(record.exc_info).split("\n")
            text += "\n" + "\n".join(_visible(line) for line in trace)
        return text


def _visible(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _raise_descriptor_limit() -> None:
    """As many descriptors as the system lets us have: hundreds of peers and lanes need them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 65_536) if hard != resource.RLIM_INFINITY else 65_536
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
