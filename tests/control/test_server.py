"""The control socket: who may speak, in what form, and what happens when somebody leaves."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest
import trio

from p2phub.control.client import ControlClient
from p2phub.control.methods import METHODS
from p2phub.control.protocol import CLIENTS_MAX, PROGRESS_INTERVAL_S, REQUEST_BYTES_MAX, BadRequest
from p2phub.errors import (
    DaemonNotRunning,
    NoProvider,
    P2phubError,
    UnknownPetname,
    all_errors,
)
from p2phub.node.acquaintances_api import BootstrapApi, TrustApi
from p2phub.node.api import Fetched, FetchRequest, NodeApi, Progress, ProgressSink
from p2phub.node.exchange_api import ExchangeApi
from p2phub.node.figures import StatusView
from p2phub.node.limits_api import LimitsApi
from p2phub.node.upkeep_api import RepairApi, UpkeepApi
from p2phub.paths import Home
from p2phub.proto.content_id import content_id_text, parse_content_id
from tests.conftest import LoggedFaults
from tests.control.serving import call, controlled, in_thread
from tests.gateway.serving import PUBLISHER, following, publish, write_model
from tests.memory_node import MemoryNode
from tests.memory_world import World, signed_files

ERRORS = [error for error in all_errors() if error.__module__.startswith("p2phub.errors.")]


async def raw(home: Home, data: bytes) -> list[dict[str, object]]:
    """The first line that comes back for some bytes; none where the server just closes."""
    received = bytearray()
    async with await trio.open_unix_socket(str(home.control_socket)) as stream:
        try:
            await stream.send_all(data)
            with trio.fail_after(10):
                while b"\n" not in received and (part := await stream.receive_some()):
                    received += part
        except trio.BrokenResourceError:
            pass  # It closed while we were sending.
    return [json.loads(line) for line in received.splitlines()]


async def test_the_socket_is_for_its_owner_alone(tmp_path: Path) -> None:
    async with controlled(MemoryNode(World()), tmp_path) as home:
        mode = home.control_socket.stat().st_mode
        assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
    assert not home.control_socket.exists()


async def test_a_socket_left_by_a_dead_daemon_is_replaced(tmp_path: Path) -> None:
    node = MemoryNode(World())
    async with controlled(node, tmp_path) as home:
        path = home.control_socket
    path.write_bytes(b"")
    async with controlled(node, tmp_path) as home:
        assert (await call(home, "identity"))["peer_id"] == node.peer_id


async def test_every_method_that_takes_nothing_answers(tmp_path: Path) -> None:
    async with controlled(MemoryNode(World()), tmp_path) as home:
        for method in (
            "about", "identity", "status", "releases", "peers", "bootstrap_list", "trust_list",
            "trust_reset",
        ):  # fmt: skip
            await call(home, method)
        assert (await call(home, "status"))["gateway"] == "http://127.0.0.1:7777"


async def test_a_release_is_published_shown_read_fetched_and_verified(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    files = write_model(tmp_path / "model")
    async with controlled(MemoryNode(World()), tmp_path) as home:
        prepared = await call(
            home, "publish_prepare", folder=str(tmp_path / "model"), kind="model", license="MIT"
        )
        signed = signed_files("tiny", "1.0", parse_content_id(prepared["manifest"]))
        published = await call(
            home,
            "publish_commit",
            publisher_id=PUBLISHER,
            name="tiny",
            version="1.0",
            petname="me",
            files={name: base64.b64encode(data).decode() for name, data in signed.items()},
        )
        assert published["content_id"] == prepared["manifest"]
        shown = await call(home, "show", reference="me/tiny")
        assert {file["path"]: file["size"] for file in shown["files"]} == {
            path: len(data) for path, data in files.items()
        }
        assert shown["signer"]["publisher_id"] == PUBLISHER
        view = await call(home, "versions", reference="me/tiny@1.0")
        assert [version["version"] for version in view["versions"]] == ["1.0"]
        fetched = await call(
            home, "fetch", reference=published["reference"], destination=str(tmp_path / "out")
        )
        assert Path(fetched["path"]) == tmp_path / "out"
        assert (tmp_path / "out/config.json").read_bytes() == files["config.json"]
        assert (await call(home, "verify", reference="me/tiny"))["faults"] == []
        assert [row["reference"] for row in await call(home, "releases")] == ["me/tiny@1.0"]


async def test_bytes_of_a_file_come_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    data = write_model(tmp_path / "model")["weights/model.safetensors"]
    node = MemoryNode(World())
    await publish(node, tmp_path / "model", "tiny")
    async with controlled(node, tmp_path) as home:

        def read() -> tuple[bytes, object]:
            received = bytearray()
            with ControlClient.connect(home) as client:
                result = client.call(
                    "read",
                    on_data=received.extend,
                    reference="lab/tiny",
                    path="weights/model.safetensors",
                    start=70_000,
                    stop=200_001,
                )
            return bytes(received), result

        received, result = await in_thread(read)
    assert received == data[70_000:200_001] and result == {"bytes": 130_001}


async def test_a_reader_of_the_bytes_that_has_enough_is_not_the_daemons_end(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write_model(tmp_path / "model")
    node = MemoryNode(World())
    await publish(node, tmp_path / "model", "tiny")

    def closed_pipe(_: bytes) -> None:
        raise BrokenPipeError

    async with controlled(node, tmp_path) as home:

        def read() -> None:
            with ControlClient.connect(home) as client:
                client.call(
                    "read", on_data=closed_pipe, reference="lab/tiny", path="config.json", start=0
                )

        with pytest.raises(BrokenPipeError):
            await in_thread(read)


async def test_a_connection_carries_one_request_after_another(tmp_path: Path) -> None:
    async with controlled(MemoryNode(World()), tmp_path) as home:

        def work() -> None:
            with ControlClient.connect(home) as client:
                for _ in range(200):
                    client.call("identity")
                with pytest.raises(UnknownPetname):
                    client.call("fetch", reference="nobody/tiny")
                client.call("identity")

        await in_thread(work)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"{}\n", "BadRequest"),
        (b'{"method": "rm"}\n', "BadRequest"),
        (b'{"method": ["status"]}\n', "BadRequest"),
        (b'{"method": "status", "params": []}\n', "BadRequest"),
        (b'{"method": "status", "params": {"a": 1}}\n', "BadRequest"),
        (b'{"method": "fetch", "params": {}}\n', "BadRequest"),
        (b'{"method": "fetch", "params": {"reference": 1}}\n', "BadRequest"),
        (b'{"method": "fetch", "params": {"reference": "a/b", "exclude": [1]}}\n', "BadRequest"),
        (b'{"method": "fetch", "params": {"reference": "a/b", "output": ""}}\n', "BadRequest"),
        (b'{"method": "fetch", "params": {"reference": "a/b", "include": "x"}}\n', "BadRequest"),
        (b'{"method": "fetch", "params": {"reference": "a/b", "peers": ["x"]}}\n', "UsageError"),
        (b'{"method": "fetch", "params": {"reference": "a/b", "allow_yanked": 1}}\n', "BadRequest"),
        (b'{"method": "fetch", "params": {"reference": "nonsense"}}\n', "UnknownReference"),
        (b'{"method": "read", "params": {"reference": "a/b", "start": -1}}\n', "BadRequest"),
        (b'{"method": "read", "params": {"reference": "a/b", "start": true}}\n', "BadRequest"),
        (b'{"method": "versions", "params": {"reference": "sha256:%064d"}}\n' % 0, "UsageError"),
        (b'{"method": "publish_prepare", "params": {"folder": "/x", "kind": "y"}}\n', "BadRequest"),
        (
            b'{"method": "publish_commit", "params": {"publisher_id": "", "name": "", '
            b'"version": "", "petname": "", "files": {"a": "*"}}}\n',
            "BadRequest",
        ),
        (b"[]\n", "BadRequest"),
        (b"not json\n", "BadRequest"),
        (b"\xff\n", "BadRequest"),
        (b"[" * 100_000 + b"\n", "BadRequest"),
    ],
)  # fmt: skip
async def test_what_cannot_be_understood_is_refused_by_kind(
    tmp_path: Path, line: bytes, kind: str
) -> None:
    async with controlled(MemoryNode(World()), tmp_path) as home:
        (reply,) = await raw(home, line)
        error = reply["error"]
        assert isinstance(error, dict) and error["kind"] == kind
        assert error["message"] and error["meaning"] and error["exit_code"]
        assert (await call(home, "identity"))["peer_id"]


async def test_a_request_without_end_is_refused_at_its_bound(tmp_path: Path) -> None:
    async with controlled(MemoryNode(World()), tmp_path) as home:
        replies = await raw(home, b"x" * (REQUEST_BYTES_MAX + (1 << 17)))
        assert all("longer than" in str(reply["error"]) for reply in replies)
        assert await call(home, "identity")


async def test_talking_out_of_turn_ends_the_request(tmp_path: Path) -> None:
    world = World(gate=trio.Event())
    (tmp_path / "model").mkdir()
    write_model(tmp_path / "model")
    await publish(MemoryNode(world), tmp_path / "model", "tiny")
    node = await following(world)
    request = b'{"method": "fetch", "params": {"reference": "lab/tiny"}}\n'
    async with controlled(node, tmp_path) as home:
        assert await raw(home, request + request) == []
        assert node.fetching == 0


async def test_a_client_that_leaves_cancels_its_fetch(tmp_path: Path) -> None:
    gate = trio.Event()
    world = World(gate=gate)
    (tmp_path / "model").mkdir()
    write_model(tmp_path / "model")
    await publish(MemoryNode(world), tmp_path / "model", "tiny")
    node = await following(world)
    async with controlled(node, tmp_path) as home:
        async with await trio.open_unix_socket(str(home.control_socket)) as stream:
            await stream.send_all(b'{"method": "fetch", "params": {"reference": "lab/tiny"}}\n')
            with trio.fail_after(5):
                while not node.fetching:
                    await trio.lowlevel.checkpoint()
        with trio.fail_after(5):
            while node.fetching:
                await trio.lowlevel.checkpoint()
        # And what was asked again goes through.
        gate.set()
        assert (await call(home, "fetch", reference="lab/tiny"))["file_count"] == 5


async def test_more_clients_than_allowed_are_told_so(tmp_path: Path) -> None:
    async with controlled(MemoryNode(World()), tmp_path) as home:
        streams = [
            await trio.open_unix_socket(str(home.control_socket)) for _ in range(CLIENTS_MAX)
        ]
        for stream in streams:  # Each is being served once it has been answered.
            await stream.send_all(b'{"method": "about"}\n')
            await stream.receive_some()
        (reply,) = await raw(home, b"")
        assert "try again later" in str(reply["error"])
        for stream in streams:
            await stream.aclose()
        with trio.fail_after(5):
            while True:
                try:
                    await call(home, "about")
                except BadRequest:
                    continue
                break


class Scripted(MemoryNode):
    """A node whose fetch reports much and then ends as it is told."""

    outcome: BaseException
    reports = 1

    async def fetch(self, request: FetchRequest, progress: ProgressSink) -> Fetched:
        for done in range(self.reports):
            progress(Progress("transfer", done, self.reports))
            if done % 1000 == 0:
                await trio.sleep(PROGRESS_INTERVAL_S / 5)
        raise self.outcome

    async def status(self) -> StatusView:
        raise ZeroDivisionError


async def test_progress_is_sampled_and_ends_with_the_newest(tmp_path: Path) -> None:
    node = Scripted(World())
    node.reports = 10_000
    node.outcome = NoProvider("none of 3 peers asked in 2.0 s holds it", asked=["a"], seconds=2.0)
    async with controlled(node, tmp_path) as home:
        seen: list[int] = []

        def work() -> None:
            with ControlClient.connect(home) as client:
                client.call(
                    "fetch", on_progress=lambda p: seen.append(p["done_bytes"]), reference="a/b"
                )

        with pytest.raises(NoProvider) as caught:
            await in_thread(work)
    assert seen[-1] == 9_999 and seen == sorted(seen) and len(seen) < 100
    assert caught.value.facts == {"asked": ["a"], "seconds": 2.0}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
async def test_every_error_arrives_as_itself(tmp_path: Path, error: type[P2phubError]) -> None:
    node = Scripted(World())
    node.outcome = ExceptionGroup("as nurseries do", [error("said so", number=7, path=Path("/x"))])
    async with controlled(node, tmp_path) as home:
        with pytest.raises(P2phubError) as caught:
            await call(home, "fetch", reference="a/b")
    assert type(caught.value) is error and caught.value.exit_code == error.exit_code
    assert caught.value.facts == {"number": 7, "path": "/x"} and str(caught.value) == "said so"


async def test_a_bug_ends_its_own_request_only(tmp_path: Path, logged_faults: LoggedFaults) -> None:
    async with controlled(Scripted(World()), tmp_path) as home:
        with pytest.raises(P2phubError) as caught:
            await call(home, "status")
        assert "ZeroDivisionError" in str(caught.value)
        assert await call(home, "identity")
    assert len(logged_faults.take()) == 1


async def test_no_daemon_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(DaemonNotRunning) as caught:
        await call(Home(tmp_path), "status")
    # What to do is the error's own meaning: the command line shows it below, once.
    assert str(caught.value) == f"no daemon answers for {tmp_path}"


async def test_a_daemon_that_ends_in_the_middle_is_said(tmp_path: Path) -> None:
    world = World(gate=trio.Event())
    (tmp_path / "model").mkdir()
    write_model(tmp_path / "model")
    await publish(MemoryNode(world), tmp_path / "model", "tiny")
    node = await following(world)
    outcome: list[BaseException] = []

    async def ask(home: Home) -> None:
        try:
            await call(home, "fetch", reference="lab/tiny")
        except DaemonNotRunning as error:
            outcome.append(error)

    async with trio.open_nursery() as nursery, controlled(node, tmp_path) as home:
        nursery.start_soon(ask, home)
        with trio.fail_after(5):
            while not node.fetching:
                await trio.lowlevel.checkpoint()
    assert "run the command again" in str(outcome[0])


def test_the_node_has_what_every_method_needs() -> None:
    parts = (NodeApi, UpkeepApi, RepairApi, ExchangeApi, LimitsApi)
    own = {"bootstrap": BootstrapApi, "trust": TrustApi}  # trust_add is the `add` of this part
    missing = set()
    for name in METHODS.keys() - {"about"}:
        part, _, rest = name.partition("_")
        is_there = hasattr(own[part], rest) if part in own else any(hasattr(p, name) for p in parts)
        missing |= set() if is_there else {name}
    assert not missing


def test_content_ids_are_what_digests_are_shown_as() -> None:
    from p2phub.control.protocol import plain
    from p2phub.node.api import VersionView

    view = plain(VersionView(version="1", manifest=bytes(32), status="active"))
    assert view["manifest"] == content_id_text(bytes(32))
