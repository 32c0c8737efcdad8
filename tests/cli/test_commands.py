"""Every command against a daemon's socket: what it prints, where, and how it ends."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import pytest
import trio

from p2phub.cli.main import COMMANDS, cli, run
from p2phub.errors import (
    CorruptChunk,
    DigestMismatch,
    NoProvider,
    ReleaseChanged,
    UnknownPetname,
    VersionExists,
    WrongPassphrase,
)
from p2phub.node.api import Fault, ProgressSink, Verified
from p2phub.node.figures import Notice
from p2phub.proto.content_id import parse_content_id
from p2phub.proto.names import Reference
from tests.cli.running import Terminal
from tests.control.serving import controlled, in_thread
from tests.gateway.serving import PUBLISHER, following, publish, write_model
from tests.memory_node import MemoryNode
from tests.memory_world import World

Capture = pytest.CaptureFixture[str]


def passphrase_file(folder: Path, words: str = "correct horse battery") -> str:
    path = folder / "passphrase"
    path.write_text(words + "\n")
    return str(path)


async def test_publish_makes_a_publisher_signs_and_prints_the_link_last(
    tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "model").mkdir()
    write_model(tmp_path / "model")
    async with controlled(MemoryNode(World()), tmp_path) as home:
        p2phub = Terminal(home, capsys)
        publishing = (
            "publish", str(tmp_path / "model"), "--name", "tiny", "--license", "MIT",
            "--passphrase-file", passphrase_file(tmp_path),
        )  # fmt: skip
        done = await p2phub(*publishing, "--version", "1.0")
        assert done.code == 0, done.err
        link, content_id = done.out.splitlines()[-1].split(" ")
        assert link.startswith("p2phub://bciq") and "/tiny@1.0?peer=/ip4/" in link
        parse_content_id(content_id)
        assert "made a new publisher" in done.err

        again = await p2phub(*publishing, "--version", "1.0.0", "--json")
        assert again.code == 0 and again.json["reference"] == link
        assert again.json["manifest"] == content_id

        (tmp_path / "model/config.json").write_text("{}")
        other = await p2phub(*publishing, "--version", "1.0", "--json")
        assert (other.code, other.error["kind"]) == (VersionExists.exit_code, "VersionExists")

        keys = await p2phub("key", "ls", "--json")
        assert [row["releases"] for row in keys.json] == [["tiny@1.0"]]
        assert set(keys.json[0]["keys"]) == {"root", "next-root", "targets", "online"}
        rows = (await p2phub("ls", "--json")).json
        assert "me/tiny@1.0" in [row["reference"] for row in rows]


async def test_publish_refuses_what_cannot_be_signed_before_reading_the_folder(
    tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "model").mkdir()
    write_model(tmp_path / "model")
    node = MemoryNode(World())
    async with controlled(node, tmp_path) as home:
        p2phub = Terminal(home, capsys)
        folder = str(tmp_path / "model")

        async def kind(*arguments: str, words: str = "correct horse battery") -> str:
            file = passphrase_file(tmp_path, words)
            done = await p2phub("publish", *arguments, "--passphrase-file", file, "--json")
            assert done.code != 0 and done.out == ""
            return str(done.error["kind"])

        assert await kind(folder, "--name", "../x", "--version", "1") == "BadReleaseName"
        assert await kind(folder, "--name", "root", "--version", "1") == "BadReleaseName"
        assert await kind(folder, "--name", "tiny", "--version", "new") == "BadVersion"
        assert await kind(str(tmp_path / "none"), "--name", "x", "--version", "1") == "UsageError"
        assert await kind(folder, "--name", "x", "--version", "1", words="short") == "BadPassphrase"
        assert await kind(folder, "--name", "x", "--version", "1", words="") == "BadPassphrase"
        assert not node.shelf.chunks and not list(home.publishers.glob("*"))
        created = await p2phub(
            "key", "create", "--json", "--passphrase-file", passphrase_file(tmp_path)
        )
        assert created.code == 0
        wrong = await kind(folder, "--name", "x", "--version", "1", words="another passphrase")
        assert wrong == WrongPassphrase.__name__ and not node.shelf.chunks
        unknown = ("--publisher", PUBLISHER)
        assert await kind(folder, "--name", "x", "--version", "1", *unknown) == "UsageError"
        key = home.publisher_keys(created.json["publisher_id"]) / "targets.pem"
        key.chmod(0o644)
        assert await kind(folder, "--name", "x", "--version", "1") == "UnsafeKeyFile"


async def test_publish_without_a_terminal_asks_for_a_file(tmp_path: Path, capsys: Capture) -> None:
    async with controlled(MemoryNode(World()), tmp_path) as home:
        p2phub = Terminal(home, capsys)
        done = await p2phub("key", "create")
        assert done.code == 11 and "--passphrase-file" in done.err


@pytest.mark.parametrize("command", ["fetch", "get", "pull", "download"])
async def test_fetch_prints_the_folder_alone_on_stdout(
    tmp_path: Path, capsys: Capture, command: str
) -> None:
    world = World()
    (tmp_path / "model").mkdir()
    files = write_model(tmp_path / "model")
    await publish(MemoryNode(world), tmp_path / "model", "tiny")
    async with controlled(await following(world), tmp_path) as home:
        p2phub = Terminal(home, capsys)
        done = await p2phub(command, "lab/tiny", "-o", str(tmp_path / "out"))
    assert (done.code, done.out) == (0, f"{tmp_path / 'out'}\n")
    assert "signed by lab as tiny@1.0" in done.err and "5 files" in done.err
    assert (tmp_path / "out/weights/model.safetensors").read_bytes() == files[
        "weights/model.safetensors"
    ]


async def test_a_fetch_of_what_is_here_speaks_of_no_peers(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "model").mkdir()
    write_model(tmp_path / "model")
    node = MemoryNode(World())
    await publish(node, tmp_path / "model", "tiny")
    async with controlled(node, tmp_path) as home:
        done = await Terminal(home, capsys)("fetch", f"{PUBLISHER}/tiny", "-o", str(tmp_path / "o"))
    assert done.code == 0, done.err
    assert ": all of it from this disk (" in done.err and "/s" not in done.err


async def test_fetch_takes_what_the_globs_choose(tmp_path: Path, capsys: Capture) -> None:
    world = World()
    (tmp_path / "model").mkdir()
    write_model(tmp_path / "model")
    await publish(MemoryNode(world), tmp_path / "model", "tiny")
    async with controlled(await following(world), tmp_path) as home:
        p2phub = Terminal(home, capsys)
        out = tmp_path / "out"
        done = await p2phub(
            "fetch",
            "lab/tiny",
            "-o",
            str(out),
            "--include",
            "*.json",
            "--include",
            "*.md",
            "--json",
        )
        assert done.json["file_count"] == 2 and done.json["signer"]["petname"] == "lab"
        assert sorted(path.name for path in out.iterdir()) == ["README.md", "config.json"]
        (out / "config.json").write_text("mine")
        done = await p2phub("fetch", "lab/tiny", "-o", str(out), "--json")
        assert done.error["kind"] == "DestinationExists"
        assert (out / "config.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("nonsense", "UnknownReference"),
        ("nobody/tiny", "UnknownPetname"),
        ("lab/absent", "ReleaseNotFound"),
        ("lab/tiny@9.9", "ReleaseNotFound"),
        ("sha256:" + "0" * 64, "NoProvider"),
        (f"p2phub://{PUBLISHER[:-1]}/tiny", "UnknownReference"),
    ],
)
async def test_fetch_fails_by_kind(
    tmp_path: Path, capsys: Capture, reference: str, kind: str
) -> None:
    world = World()
    (tmp_path / "model").mkdir()
    write_model(tmp_path / "model")
    await publish(MemoryNode(world), tmp_path / "model", "tiny")
    async with controlled(await following(world), tmp_path) as home:
        p2phub = Terminal(home, capsys)
        as_json = await p2phub("fetch", reference, "--json")
        as_text = await p2phub("fetch", reference)
    assert as_json.error["kind"] == kind and as_json.out == ""
    assert as_json.code == as_text.code == as_json.error["exit_code"] != 0
    assert as_text.out == "" and as_text.err.startswith("p2phub: ")
    assert as_json.error["message"] in as_text.err


async def test_nobody_found_says_who_was_asked_and_for_how_long(
    tmp_path: Path, capsys: Capture
) -> None:
    async with controlled(MemoryNode(World()), tmp_path) as home:
        done = await Terminal(home, capsys)("fetch", "sha256:" + "1" * 64, "--json")
    assert done.code == NoProvider.exit_code
    assert done.error["facts"] == {"asked": ["12D3KooWOther"], "seconds": 0.1}


async def test_cat_writes_just_the_bytes_asked_for(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    world = World()
    (tmp_path / "model").mkdir()
    data = write_model(tmp_path / "model")["weights/model.safetensors"]
    await publish(MemoryNode(world), tmp_path / "model", "tiny")
    async with controlled(await following(world), tmp_path) as home:
        for arguments, wanted in (
            ((), data),
            (("--range", "0-0"), data[:1]),
            (("--range", "65530-65540"), data[65530:65541]),
            (("--range", "299990-"), data[299990:]),
            (("--range", "299990-999999999"), data[299990:]),
        ):
            words = ["--home", str(home.root), "cat", "lab/tiny", "weights/model.safetensors"]
            code = await in_thread(partial(run, [*words, *arguments]))
            out, _ = capsysbinary.readouterr()
            assert (code, out) == (0, wanted)


@pytest.mark.parametrize("part", ["1", "-5", "5-1", "a-b", "0-1,2-3", "1-" + "9" * 19])
async def test_cat_refuses_a_range_that_is_none(tmp_path: Path, capsys: Capture, part: str) -> None:
    async with controlled(MemoryNode(World()), tmp_path) as home:
        done = await Terminal(home, capsys)("cat", "a/b", "c", f"--range={part}", "--json")
    assert (done.code, done.error["kind"]) == (2, "UsageError")


async def test_show_lists_files_digests_signer_and_peers(tmp_path: Path, capsys: Capture) -> None:
    world = World()
    (tmp_path / "model").mkdir()
    write_model(tmp_path / "model")
    publisher = MemoryNode(world)
    await publish(publisher, tmp_path / "model", "tiny")
    async with controlled(await following(world), tmp_path) as home:
        p2phub = Terminal(home, capsys)
        text, view = (
            await p2phub("show", "lab/tiny"),
            (await p2phub("show", "lab/tiny", "--json")).json,
        )
    for file in view["files"]:
        assert file["path"] in text.out and file["sha256"] in text.out
    assert PUBLISHER in text.out and publisher.peer_id in text.out and "MIT" in text.out


async def test_verify_names_what_is_wrong_and_fails(tmp_path: Path, capsys: Capture) -> None:
    world = World()
    (tmp_path / "model").mkdir()
    write_model(tmp_path / "model")
    node = MemoryNode(world)
    await publish(node, tmp_path / "model", "tiny")
    async with controlled(node, tmp_path) as home:
        p2phub = Terminal(home, capsys)
        good = await p2phub("verify", "lab/tiny")
        assert good.code == 0 and good.out.startswith("verified 5 files")
        world.lies = set(world.releases)
        bad = await p2phub("verify", "lab/tiny")
        assert bad.code == DigestMismatch.exit_code and "config.json" in bad.err
        as_json = await p2phub("verify", "lab/tiny", "--json")
        assert len(as_json.json["faults"]) == 5 and as_json.code == bad.code


async def test_verify_does_not_blame_the_publisher_for_a_damaged_disk(
    tmp_path: Path, capsys: Capture
) -> None:
    class Damaged(MemoryNode):
        async def verify(self, reference: Reference, progress: ProgressSink) -> Verified:
            fault = Fault(path="config.json", reason="a chunk is damaged", kind="CorruptChunk")
            return replace(await super().verify(reference, progress), faults=(fault,))

    (tmp_path / "model").mkdir()
    write_model(tmp_path / "model")
    node = Damaged(World())
    await publish(node, tmp_path / "model", "tiny")
    async with controlled(node, tmp_path) as home:
        found = await Terminal(home, capsys)("verify", "lab/tiny")
        assert found.code == CorruptChunk.exit_code and "the statement is false" not in found.err


async def test_verify_tells_scripts_that_files_were_edited(tmp_path: Path, capsys: Capture) -> None:
    class Edited(MemoryNode):
        async def verify(self, reference: Reference, progress: ProgressSink) -> Verified:
            fault = Fault(path="config.json", reason="it was edited", kind="ReleaseChanged")
            found = await super().verify(reference, progress)
            return replace(found, faults=(fault,), whole_count=4, missing_bytes=10)

    (tmp_path / "model").mkdir()
    write_model(tmp_path / "model")
    node = Edited(World())
    await publish(node, tmp_path / "model", "tiny")
    async with controlled(node, tmp_path) as home:
        p2phub = Terminal(home, capsys)
        found = await p2phub("verify", "lab/tiny")
        assert found.code == ReleaseChanged.exit_code
        assert found.out.startswith("verified 4 of 5 files") and "config.json: it was" in found.err
        as_json = await p2phub("verify", "lab/tiny", "--json")
        assert as_json.code == ReleaseChanged.exit_code and len(as_json.json["faults"]) == 1
        assert as_json.error["kind"] == "ReleaseChanged"


async def test_trust_adds_lists_and_removes(tmp_path: Path, capsys: Capture) -> None:
    async with controlled(MemoryNode(World()), tmp_path) as home:
        p2phub = Terminal(home, capsys)
        assert (await p2phub("trust", "ls")).code == 0
        added = await p2phub("trust", "add", f"p2phub:{PUBLISHER}", "--as", "lab")
        assert added.out == f"lab is {PUBLISHER}\n"
        assert [row["petname"] for row in (await p2phub("trust", "ls", "--json")).json] == ["lab"]
        assert PUBLISHER in (await p2phub("trust", "ls")).out
        for petname in ("a/b", "é", ""):
            refused = await p2phub("trust", "add", PUBLISHER, "--as", petname, "--json")
            assert refused.error["kind"] == "BadPetname"
        short = await p2phub("trust", "add", PUBLISHER[:-1], "--as", "other", "--json")
        assert short.error["kind"] == "UnknownReference"
        assert (await p2phub("trust", "reset", "lab")).code == 0
        assert (await p2phub("trust", "rm", "lab")).code == 0
        gone = await p2phub("trust", "rm", "lab")
        assert gone.code == UnknownPetname.exit_code


async def test_peers_bootstrap_connect_and_id(tmp_path: Path, capsys: Capture) -> None:
    world = World()
    other = MemoryNode(world, "12D3KooWOther")
    node = MemoryNode(world)
    async with controlled(node, tmp_path) as home:
        p2phub = Terminal(home, capsys)
        assert (await p2phub("peers", "--json")).json == []
        assert (await p2phub("connect", other.address)).out == f"connected to {other.peer_id}\n"
        assert other.peer_id in (await p2phub("peers")).out
        assert (await p2phub("connect", "/ip4/127.0.0.1/tcp/1", "--json")).code == 2
        world.reachable = False
        assert (await p2phub("connect", other.address, "--json")).error["kind"] == "PeerUnreachable"
        assert (await p2phub("bootstrap", "add", other.address, "--json")).json == [other.address]
        assert (await p2phub("bootstrap", "ls")).out == f"{other.address}\n"
        assert (await p2phub("bootstrap", "rm", other.address, "--json")).json == []
        assert (await p2phub("bootstrap", "rm", other.address)).code == 2
        assert (await p2phub("id")).out.splitlines() == [node.peer_id, node.address]


async def test_status_and_env(tmp_path: Path, capsys: Capture) -> None:
    node = MemoryNode(World())
    node.notices.append(Notice(time=0.0, kind="FileChanged", message="gone: a\x1b]0;b\r"))
    async with controlled(node, tmp_path) as home:
        p2phub = Terminal(home, capsys)
        status = await p2phub("status")
        assert "gone: a\\x1b]0;b\\r" in status.out and "\x1b" not in status.out
        assert (await p2phub("status", "--json")).json["peer_id"] == node.peer_id
        exported = (await p2phub("env")).out
        assert "export HF_ENDPOINT=http://127.0.0.1:7777\n" in exported


async def test_settings_are_shown_changed_and_refused_by_name(
    tmp_path: Path, capsys: Capture
) -> None:
    async with controlled(MemoryNode(World()), tmp_path) as home:
        p2phub = Terminal(home, capsys)
        home.config.write_text("# mine\nlanes = 8  # few\n")
        rows = {row["name"]: row for row in (await p2phub("config", "--json")).json}
        assert rows["lanes"]["value"] == 8 and rows["lanes"]["changed"]
        assert (await p2phub("config", "lanes")).out == "8\n"
        assert (await p2phub("config", "lanes", "16")).out == "16\n"
        assert (await p2phub("config", "mdns", "false")).out == "false\n"
        listens = ("/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/2")
        assert (await p2phub("config", "listen", *listens, "--json")).json["value"] == list(listens)
        assert "# mine\n" in home.config.read_text()
        assert (await p2phub("config", "lanes", "--unset")).out == "32\n"
        before = home.config.read_text()
        for words in (("lanes", "0"), ("mdns", "yes"), ("gateway", "localhost:80 "), ("nope",)):
            refused = await p2phub("config", *words, "--json")
            assert refused.code == 6 and refused.error["facts"]["setting"] == words[0]
        assert home.config.read_text() == before
        home.config.write_text("quota = 1\n")
        unknown = await p2phub("config", "--json")
        assert (unknown.code, unknown.error["facts"]["setting"]) == (6, "quota")


async def test_ctrl_c_ends_with_130(tmp_path: Path) -> None:
    # In a process of its own, so that the test survives it.
    world = World(gate=trio.Event())
    (tmp_path / "model").mkdir()
    write_model(tmp_path / "model")
    await publish(MemoryNode(world), tmp_path / "model", "tiny")
    node = await following(world)
    async with controlled(node, tmp_path) as home:
        words = [
            sys.executable,
            "-P",
            "-m",
            "p2phub.cli",
            "--home",
            str(home.root),
            "fetch",
            "lab/tiny",
        ]
        async with trio.open_nursery() as nursery:
            process = await nursery.start(lambda **kw: trio.run_process(words, check=False, **kw))
            with trio.fail_after(60):  # an interpreter starts on a machine that is busy
                while not node.fetching:
                    await trio.sleep(0.01)
                process.send_signal(signal.SIGINT)
                assert await process.wait() == 130
                while node.fetching:
                    await trio.sleep(0.01)


def test_every_command_has_json_and_home() -> None:
    def walk(command: click.Command, path: str) -> list[tuple[str, click.Command]]:
        found = [(path, command)]
        if isinstance(command, click.Group) and path:
            for name, child in command.commands.items():
                found += walk(child, f"{path} {name}")
        return found

    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        for path, each in walk(command, name):
            options = {option for parameter in each.params for option in parameter.opts}
            assert {"--json", "--home"} <= options, path
            assert each.help, path
