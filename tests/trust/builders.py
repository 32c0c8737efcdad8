"""Real publishers with small repositories, and a swarm of peers that answer from dictionaries."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner

from p2phub.digest import digest, sha256
from p2phub.errors import NoProvider
from p2phub.trust.floor import Floor
from p2phub.trust.follower import Follower
from p2phub.trust.publisher import PublisherRepository
from p2phub.trust.signing import RootKeys

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
ADDRESS = "/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWGRU"


def signer() -> CryptoSigner:
    return CryptoSigner.generate_ed25519()


@dataclass
class Publisher:
    """A publisher with all keys at hand, as its owner, or a thief of some of them, has."""

    folder: Path
    root: list[CryptoSigner] = field(default_factory=lambda: [signer()])
    next_root: list[CryptoSigner] = field(default_factory=lambda: [signer()])
    targets: list[CryptoSigner] = field(default_factory=lambda: [signer()])
    online: CryptoSigner = field(default_factory=signer)
    root_threshold: int = 1
    next_root_threshold: int = 1
    targets_threshold: int = 1
    created: datetime = NOW

    def __post_init__(self) -> None:
        self.repository = PublisherRepository.create(
            self.folder, self.root_keys(), self.signers(), self.created
        )
        self.id = self.repository.publisher_id

    def root_keys(self) -> RootKeys:
        return RootKeys(
            root=[key.public_key for key in self.root],
            next_root=[key.public_key for key in self.next_root],
            targets=[key.public_key for key in self.targets],
            online=self.online.public_key,
            root_threshold=self.root_threshold,
            next_root_threshold=self.next_root_threshold,
            targets_threshold=self.targets_threshold,
        )

    def signers(self) -> list[CryptoSigner]:
        return [*self.root, *self.next_root, *self.targets, self.online]

    def publish(
        self,
        name: str = "tiny-llm",
        version: str = "1.0",
        manifest: bytes = b"a manifest",
        now: datetime | None = None,
        **options: Any,
    ) -> dict[str, bytes]:
        return self.repository.add_release(
            name,
            version,
            **{
                "manifest_digest": digest(manifest),
                "manifest_length": len(manifest),
                "manifest_sha256": sha256(manifest),
                "kind": "model",
                "license": "Apache-2.0",
                "addresses": [ADDRESS],
                "signers": [*self.targets, self.online],
                "now": now or self.created,
                **options,
            },
        )

    def rotate(self, now: datetime | None = None) -> dict[str, bytes]:
        """Go on with the committed keys, as the owner does."""
        old = self.signers()
        self.root, self.next_root = self.next_root, [signer() for _ in self.next_root]
        return self.repository.rotate_root(
            self.root_keys(), [*old, *self.signers()], now or self.created
        )

    def files(self) -> dict[str, bytes]:
        return self.repository.files()


class Swarm:
    """Peers, each a dictionary of files; what a follower's `fetch` is made of."""

    def __init__(self, *peers: Mapping[str, bytes]) -> None:
        self.peers: list[Mapping[str, bytes]] = list(peers)
        self.asked: list[str] = []

    def fetch(self, file_name: str, bytes_max: int) -> list[bytes]:
        self.asked.append(file_name)
        if not self.peers:
            raise NoProvider("nobody is there")
        answers = [peer[file_name] for peer in self.peers if file_name in peer]
        return [data for data in dict.fromkeys(answers) if len(data) <= bytes_max]


class Client:
    """A node's trust folder: its floor and its followers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.floor = Floor(folder / "floor.db")
        self._open: list[Floor] = [self.floor]

    def follower(self, publisher_id: str, swarm: Swarm) -> Follower:
        return Follower(publisher_id, self.folder / publisher_id, self.floor, swarm.fetch)

    def restart(self) -> None:
        self.floor.close()
        self.floor = Floor(self.folder / "floor.db")

    def close(self) -> None:
        self.floor.close()


def signed_file(signed: Mapping[str, Any], signers: Iterable[CryptoSigner]) -> bytes:
    """A metadata file that says `signed`, whatever that is, with genuine signatures."""
    canonical = encode_canonical(dict(signed))
    assert canonical is not None
    payload = canonical.encode("utf-8")
    signatures = [
        {"keyid": key.public_key.keyid, "sig": key.sign(payload).signature} for key in signers
    ]
    document = {"signatures": signatures, "signed": signed}
    return json.dumps(document, separators=(",", ":")).encode("utf-8")


def content_of(file: bytes) -> dict[str, Any]:
    """What a metadata file says."""
    signed: dict[str, Any] = json.loads(file)["signed"]
    return signed


def meta_file(version: int, data: bytes) -> dict[str, Any]:
    return {"version": version, "length": len(data), "hashes": {"sha256": sha256(data).hex()}}


def followed(publisher: Publisher, client: Client) -> tuple[Follower, Swarm]:
    """A follower that has seen the publisher's one release."""
    swarm = Swarm(publisher.files())
    follower = client.follower(publisher.id, swarm)
    follower.refresh(NOW)
    follower.resolve("tiny-llm", None, NOW)
    return follower, swarm


def still_usable(follower: Follower) -> bool:
    return follower.resolve("tiny-llm", "1.0", NOW).version == "1.0"


def online_thief(
    publisher: Publisher, files: dict[str, bytes], added: dict[str, bytes], **changes: Any
) -> dict[str, bytes]:
    """`added` files under a new snapshot and timestamp, which the online key alone can sign."""
    snapshot_name = max(name for name in files if name.endswith(".snapshot.json"))
    snapshot = content_of(files[snapshot_name])
    snapshot["version"] += 1
    for file_name, data in added.items():
        version, _, role_file = file_name.partition(".")
        snapshot["meta"][role_file] = meta_file(int(version), data)
    snapshot |= changes
    data = signed_file(snapshot, [publisher.online])
    timestamp = content_of(files["timestamp.json"])
    timestamp["version"] += 1
    timestamp["meta"]["snapshot.json"] = meta_file(snapshot["version"], data)
    return added | {
        f"{snapshot['version']}.snapshot.json": data,
        "timestamp.json": signed_file(timestamp, [publisher.online]),
    }


def max_snapshot(files: dict[str, bytes]) -> bytes:
    return files[max(name for name in files if name.endswith(".snapshot.json"))]
