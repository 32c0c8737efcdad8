"""Real nodes in one process: libp2p on loopback, lanes, stores on disk, real publishers."""

from __future__ import annotations

import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from p2phub.config import settings
from p2phub.node.api import Fetched, FetchRequest, Progress, Published, ReleaseTerms
from p2phub.node.node import Node, open_node
from p2phub.paths import Home
from p2phub.proto.content_id import content_id_text
from p2phub.proto.names import parse_reference
from p2phub.store.base import Store
from p2phub.trust.keys import KeyRole, create_keys
from p2phub.trust.publisher import PublisherRepository
from p2phub.trust.signing import RootKeys

PASSPHRASE = "correct horse battery"


@asynccontextmanager
async def node(
    folder: Path,
    *,
    bootstrap: tuple[str, ...] = (),
    store: Store | None = None,
    store_max: int = 0,
    lanes: int = 32,
) -> AsyncIterator[Node]:
    """A running node whose home is `folder`; any free ports, no mDNS."""
    chosen = settings(
        "",
        {
            "listen": ["/ip4/127.0.0.1/tcp/0"],
            "lane_listen": "127.0.0.1:0",
            "mdns": False,
            "bootstrap": list(bootstrap),
            "store_max": store_max,
            "lanes": lanes,
        },
    )
    async with open_node(Home(folder), chosen, store=store) as running:
        yield running


async def address(running: Node) -> str:
    return (await running.identity()).addresses[0]


def write_model(folder: Path, *, size: int = 3_000_000, seed: int = 1) -> Path:
    """A small release: one file of many chunks, one of a few, a text, an empty file, a folder."""
    rng = random.Random(seed)
    (folder / "nested").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(rng.randbytes(size))
    (folder / "nested" / "vocabulary.bin").write_bytes(rng.randbytes(200_000))
    (folder / "README.md").write_text("# A model\n")
    (folder / "empty").write_bytes(b"")
    return folder


async def publish(running: Node, folder: Path, kind: str = "model") -> str:
    """Take a folder in without signing anything; its content id."""
    terms = ReleaseTerms(kind="dataset" if kind == "dataset" else "model")
    prepared = await running.publish_prepare(folder, terms, ignore)
    return content_id_text(prepared.manifest)


async def publish_signed(
    running: Node, folder: Path, home: Path, *, name: str = "tiny", version: str = "1.0"
) -> Published:
    """Publish under a name, signed as the command line does it."""
    prepared = await running.publish_prepare(folder, ReleaseTerms(kind="model"), ignore)
    repository, signers = publisher(home)
    repository.add_release(
        name,
        version,
        manifest_digest=prepared.manifest,
        manifest_length=prepared.manifest_length,
        manifest_sha256=prepared.manifest_sha256,
        kind="model",
        license="",
        addresses=prepared.addresses,
        signers=signers.values(),
        now=time.time(),
    )
    return await running.publish_commit(
        repository.publisher_id, name, version, repository.files(), "lab"
    )


_publishers: dict[Path, tuple[PublisherRepository, dict]] = {}  # type: ignore[type-arg]


def publisher(home: Path):  # type: ignore[no-untyped-def]
    """The one publisher of a home, made at its first use."""
    if home not in _publishers:
        signers = create_keys(home / "signing-keys", PASSPHRASE)
        keys = RootKeys(
            root=[signers[KeyRole.ROOT].public_key],
            next_root=[signers[KeyRole.NEXT_ROOT].public_key],
            targets=[signers[KeyRole.TARGETS].public_key],
            online=signers[KeyRole.ONLINE].public_key,
        )
        repository = PublisherRepository.create(
            home / "signing-repository", keys, signers.values(), time.time()
        )
        _publishers[home] = repository, signers
    return _publishers[home]


async def fetch(
    running: Node,
    reference: str,
    *,
    to: Path | None = None,
    peers: tuple[str, ...] = (),
    include: tuple[str, ...] = (),
) -> Fetched:
    request = FetchRequest(
        reference=parse_reference(reference),
        destination=to,
        peers=peers,
        include=include,
        room_wait_s=0,
    )
    return await running.fetch(request, ignore)


def ignore(progress: Progress) -> None:
    """For operations whose progress the test does not look at."""


def same_files(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files, byte for byte, and nothing else."""
    return _files(one) == _files(other)


def _files(folder: Path) -> dict[str, bytes]:
    return {
        os.path.relpath(path, folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".p2phub" not in str(path.relative_to(folder))
    }
