"""What cannot be had or must not be taken ends with its own exit code, and says what to do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from p2phub.digest import digest, sha256
from p2phub.errors import (
    FileChanged,
    HostilePath,
    MalformedDocument,
    NoProvider,
    NoSuchFile,
    NothingSelected,
    P2phubError,
    ReleaseNotFound,
    TamperedMetadata,
    UnknownPetname,
    UnknownPublisher,
    UnknownReference,
    WrongSigner,
)
from p2phub.paths import Home
from p2phub.proto.codec import decode, encode
from p2phub.proto.content_id import content_id_text
from p2phub.proto.limits import MIB
from p2phub.proto.manifest import FilePage, FileRecord, Manifest, page_ref
from p2phub.store.disk import DiskStore
from tests.end_to_end.daemons import Daemon, Daemons, Outcome, daemons, write_files
from tests.sources import ROOT

SEED = 3


@dataclass(frozen=True)
class World:
    """A publisher with one release, and somebody who knows its node."""

    all: Daemons
    publisher: Daemon
    user: Daemon
    content_id: str
    publisher_id: str


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with daemons() as all:
        publisher = all.start("publisher")
        folder = write_files(all.folder / "model", {"w.bin": 300_000, "README.md": 100}, SEED)
        published = publisher.publish(folder, "good")
        user = all.start("user", bootstrap=[publisher])
        yield World(all, publisher, user, published["content_id"], published["publisher_id"])


def assert_refused(outcome: Outcome, *kinds: type[P2phubError]) -> str:
    """The command failed with one of `kinds` and said so; what it said."""
    error = outcome.error
    assert error["kind"] in [kind.__name__ for kind in kinds], error
    assert outcome.code == error["exit_code"] != 1
    assert error["message"] and error["meaning"]
    return str(error["message"])


def releases(daemon: Daemon) -> set[str]:
    return {row["content_id"] for row in daemon.json("ls") if row["state"] != "known"}


@pytest.mark.parametrize("reference", ["nonsense", "bafknonsense", "sha256:12", "p2phub://x/y"])
def test_what_is_no_reference_is_said_at_once(world: World, reference: str) -> None:
    outcome = world.user.run("fetch", reference, "--json")
    assert_refused(outcome, UnknownReference)
    assert outcome.seconds < 2


def test_a_petname_that_nobody_was_given_is_named(world: World) -> None:
    message = assert_refused(world.user.run("fetch", "nobody/model", "--json"), UnknownPetname)
    assert "nobody" in message


def test_a_release_that_its_publisher_never_signed_is_named(world: World) -> None:
    reference = f"p2phub://{world.publisher_id}/never"
    assert "never" in assert_refused(world.user.run("fetch", reference, "--json"), ReleaseNotFound)


def test_a_file_that_the_release_lacks_is_named(world: World) -> None:
    outcome = world.user.run("cat", world.content_id, "lacking.txt", "--json")
    assert "lacking.txt" in assert_refused(outcome, NoSuchFile)
    outcome = world.user.run("fetch", world.content_id, "--include", "*.gguf", "--json")
    assert_refused(outcome, NothingSelected)


@pytest.mark.parametrize("form", ["content id", "sha256"])
def test_who_was_asked_in_vain_is_said_and_for_how_long(world: World, form: str) -> None:
    name = digest(b"held by nobody")
    reference = content_id_text(name) if form == "content id" else f"sha256:{name.hex()}"
    outcome = world.user.run("fetch", reference, "--json")
    message = assert_refused(outcome, NoProvider)
    facts = outcome.error["facts"]
    assert facts["peers_asked"] == [world.publisher.peer_id]
    assert facts["nodes_asked"] >= 1 and facts["seconds"] > 0
    told = re.search(r"asked 1 peer and \d+ nodes? of the network for (\d+) s", message)
    assert told is not None and abs(int(told[1]) - facts["seconds"]) <= 1
    assert outcome.seconds < 25
    assert content_id_text(name) not in releases(world.user)


def test_a_publisher_whom_nobody_knows_is_named(world: World) -> None:
    unknown = world.publisher_id[:-4] + ("aaaa" if world.publisher_id[-4:] != "aaaa" else "bbbb")
    outcome = world.user.run("fetch", f"p2phub://{unknown}/good", "--json")
    assert_refused(outcome, UnknownPublisher, NoProvider, UnknownReference)


@dataclass(frozen=True)
class Impostor:
    """A peer that says it is the publisher, and somebody who knows no other peer."""

    served: Path  # what it has of the publisher's metadata
    genuine: Path
    victim: Daemon
    reference: str

    def forge(self, change: Callable[[Path], None]) -> Outcome:
        """A fetch from the impostor after `change` of what it serves."""
        for path in self.genuine.glob("*.json"):
            shutil.copy(path, self.served)
        change(self.served)
        return self.victim.run("fetch", self.reference, "--json")


@pytest.fixture(scope="module")
def impostor(world: World) -> Iterator[Impostor]:
    victim = world.all.start("victim")
    served = world.all.folder / "served"
    served.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.end_to_end.impostor", str(served)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        yield Impostor(
            served,
            Home(world.publisher.home).publisher(world.publisher_id),
            victim,
            f"p2phub://{world.publisher_id}/good?peer={process.stdout.readline().strip()}",
        )
    finally:
        process.kill()
        process.communicate()


def test_metadata_that_other_keys_signed_is_refused(impostor: Impostor) -> None:
    def sign(folder: Path) -> None:
        path = folder / "timestamp.json"
        stated = json.loads(path.read_text())
        stated["signed"]["version"] += 1  # under the signature of the version before
        path.write_text(json.dumps(stated))

    assert_refused(impostor.forge(sign), WrongSigner)
    assert releases(impostor.victim) == set()


def test_a_tampered_targets_file_is_refused(impostor: Impostor) -> None:
    def tamper(folder: Path) -> None:
        path = folder / "1.good.json"
        path.write_text(path.read_text().replace("model", "madel"))

    assert_refused(impostor.forge(tamper), TamperedMetadata)
    assert releases(impostor.victim) == set()


@dataclass(frozen=True)
class Forger:
    """A node with documents in its store that no publish command makes."""

    daemon: Daemon
    references: dict[str, str]  # by what is wrong


@pytest.fixture(scope="module")
def forger(world: World) -> Forger:
    daemon = world.all.make("forger")
    small = b"text"
    record = FileRecord("README.md", len(small), sha256(small), digest(small), 1)
    page = FilePage((record,))
    good = Manifest("model", "", (), (), (), "", (page_ref(page),))
    climbing = FilePage((replace(record, path="../../README.md"),))
    documents = {
        "unknown key": encode({**decode(good.encode(), size_max=1 << 16), "extra": 1}),
        "hostile path": replace(good, pages=(page_ref(climbing),)).encode(),
        "wrong count": replace(good, pages=(replace(page_ref(page), data_size=5),)).encode(),
    }
    daemon.home.mkdir(mode=0o700)
    store = DiskStore(Home(daemon.home).store)
    store.put([small, page.encode(), climbing.encode(), *documents.values()])
    store.close()
    daemon.start()
    references = {what: content_id_text(digest(data)) for what, data in documents.items()}
    return Forger(daemon, references)


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("unknown key", MalformedDocument),
        ("wrong count", MalformedDocument),
        ("hostile path", HostilePath),
    ],
)
def test_a_corrupt_or_hostile_manifest_is_refused_whole(
    world: World, forger: Forger, what: str, error: type[P2phubError], tmp_path: Path
) -> None:
    folder = tmp_path / "below" / "out"
    reference = forger.references[what]
    outcome = world.user.run(
        "fetch", reference, "--peer", forger.daemon.address, "-o", str(folder), "--json"
    )
    assert_refused(outcome, error)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert reference not in releases(world.user)


@pytest.mark.parametrize("name", ["aux.txt", "back\\slash", "line\nbreak", "trailing. "])
def test_a_folder_with_a_hostile_name_is_not_published(world: World, name: str) -> None:
    before = releases(world.publisher)
    folder = write_files(world.all.folder / f"hostile-{len(name)}", {name: 10, "ok.txt": 10}, SEED)
    outcome = publish(world, folder, "hostile")
    assert_refused(outcome, HostilePath)
    assert releases(world.publisher) == before


def test_a_folder_that_changes_while_it_is_published_is_not(world: World) -> None:
    before = releases(world.publisher)
    folder = write_files(world.all.folder / "changing", {"log.bin": 64 * MIB}, SEED)
    ended = threading.Event()

    def append() -> None:
        with (folder / "log.bin").open("ab", buffering=0) as log:
            while not ended.is_set():
                log.write(b"another line\n")

    writer = threading.Thread(target=append)
    writer.start()
    try:
        outcome = publish(world, folder, "changing")
    finally:
        ended.set()
        writer.join()
    assert_refused(outcome, FileChanged)
    assert releases(world.publisher) == before


def publish(world: World, folder: Path, name: str) -> Outcome:
    passphrase = world.publisher.home.with_name("passphrase")
    return world.publisher.run(
        "publish", str(folder), "--name", name, "--version", "1.0",
        "--passphrase-file", str(passphrase), "--json",
    )  # fmt: skip
