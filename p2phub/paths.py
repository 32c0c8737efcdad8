"""The one place that names files and folders.

Everything below a node's home folder is found through `Home`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from p2phub.errors import BadSetting, UsageError

HOME_VARIABLE = "P2PHUB_HOME"
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+!-]{0,127}")
_STATE = re.compile(r"state-([0-9]{1,12})", re.ASCII)
SOCKET_PATH_BYTES_MAX = 107  # sun_path of Linux less its zero byte


@dataclass(frozen=True, slots=True)
class Home:
    """A node's folder: store, keys, configuration, socket."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def log(self) -> Path:
        return self.root / "daemon.log"

    @property
    def control_socket(self) -> Path:
        """A unix socket; its path must stay below the kernel's 108 bytes.

        Raises BadSetting where it does not.
        """
        path = self.root / "control.sock"
        if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
            raise BadSetting(
                f"the home folder's path is too long for a socket: {path}", path=str(path)
            )
        return path

    @property
    def identity(self) -> Path:
        """The peer key: 0600, never a publisher's key."""
        return self.root / "identity.key"

    @property
    def gateway_token(self) -> Path:
        return self.root / "gateway.token"

    @property
    def peers(self) -> Path:
        return self.root / "peers.json"

    @property
    def bootstrap(self) -> Path:
        """Bootstrap addresses that the user added."""
        return self.root / "bootstrap.json"

    @property
    def limits(self) -> Path:
        """Rate limits that the user set while the node ran."""
        return self.root / "limits.json"

    @property
    def announcements(self) -> Path:
        return self.root / "announcements.json"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def releases(self) -> Path:
        """Read-only trees of fetched releases."""
        return self.root / "releases"

    def release_tree(self, names: tuple[str, ...]) -> Path:
        """Where the tree of one release lies; each name is one plain folder. Raises BadSetting."""
        return self.releases.joinpath(*(plain(name) for name in names))

    @property
    def keys(self) -> Path:
        """Publishers' private keys, 0700."""
        return self.root / "keys"

    @property
    def publishers(self) -> Path:
        """TUF repositories that are published from here."""
        return self.root / "publishers"

    @property
    def trust(self) -> Path:
        """Followed publishers' metadata, petnames and the trust floor."""
        return self.root / "trust"

    @property
    def floor(self) -> Path:
        return self.trust / "floor.db"

    @property
    def petnames(self) -> Path:
        return self.trust / "petnames.json"

    def publisher(self, publisher_id: str) -> Path:
        return self.publishers / plain(publisher_id)

    def publisher_keys(self, publisher_id: str) -> Path:
        """The private keys of one publisher, 0700."""
        return self.keys / plain(publisher_id)

    def followed(self, publisher_id: str) -> Path:
        return self.trust / plain(publisher_id)


def plain(name: str) -> str:
    """`name` if it is one harmless path component. Raises BadSetting otherwise."""
    if not _PLAIN.fullmatch(name):
        raise BadSetting(
            f"{name[:80]!r} cannot be a file name here: letters, digits, '.', '_' and '-' only"
        )
    return name


def home(named: str | os.PathLike[str] | None = None) -> Home:
    """The home folder: as named, else $P2PHUB_HOME, else ~/.p2phub."""
    chosen = named or os.environ.get(HOME_VARIABLE) or Path.home() / ".p2phub"
    return Home(Path(chosen).expanduser().absolute())


@dataclass(frozen=True, slots=True)
class StoreFolder:
    """The store's own folder, file by file."""

    root: Path

    @property
    def version(self) -> Path:
        """One line: which layout this is. Written first, read first."""
        return self.root / "VERSION"

    @property
    def index(self) -> Path:
        return self.root / "index.db"

    @property
    def journal(self) -> Path:
        """What no file of the store can tell: adopted paths, releases, pins. Append-only."""
        return self.root / "journal"

    @property
    def rebuilding(self) -> Path:
        """There while the index is made again: what is found beside it is not whole."""
        return self.root / "rebuilding"

    @property
    def parts(self) -> Path:
        return self.root / "part"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def packs(self) -> Path:
        return self.root / "packs"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    @property
    def scratch(self) -> Path:
        """Emptied at each start."""
        return self.root / "tmp"

    def part(self, name: bytes) -> Path:
        return self.parts / name.hex()

    def whole(self, name: bytes) -> Path:
        text = name.hex()
        return self.data / text[:2] / text

    def quarantined(self, name: bytes, chunk: int, number: int) -> Path:
        """Where the wrong bytes of a chunk are set aside."""
        return self.quarantine / f"{name.hex()}-{chunk}-{number:03}"

    def pack(self, number: int) -> Path:
        return self.packs / f"{number:06}.pack"


MOUNTS = Path("/proc/self/mountinfo")  # Linux: which file system is mounted where
PART_FOLDER = ".p2phub-part"  # inside the folder that a fetch writes to; no release may name it


def part_in(folder: Path, name: bytes) -> Path:
    """Where a part lies whose result belongs into the user's `folder`."""
    return folder / PART_FOLDER / name.hex()


def metadata_file(role: str, version: int | None = None) -> str:
    """The name of a TUF file: `3.targets.json`, or `timestamp.json`, which alone has no version."""
    return f"{role}.json" if version is None else f"{version}.{role}.json"


@dataclass(frozen=True, slots=True)
class RepositoryFolder:
    """A publisher's own TUF repository: every file under the name that peers ask for."""

    root: Path

    @property
    def lock(self) -> Path:
        """Held while a command or the daemon signs."""
        return self.root / "lock"

    def metadata(self, role: str, version: int | None = None) -> Path:
        return self.root / metadata_file(role, version)


@dataclass(frozen=True, slots=True)
class FollowedFolder:
    """What is held of one followed publisher: a folder for each state, and which is current."""

    root: Path

    @property
    def current(self) -> Path:
        """A symbolic link to the state in use; replaced by a rename of `next_current`."""
        return self.root / "current"

    @property
    def next_current(self) -> Path:
        return self.root / "current.next"

    def state(self, number: int) -> Path:
        return self.root / f"state-{number}"

    def state_number(self, path: Path) -> int | None:
        """Which state `path` is the folder of; None if of none."""
        match = _STATE.fullmatch(path.name)
        return int(match[1]) if match else None


@dataclass(frozen=True, slots=True)
class StateFolder:
    """One state of a followed publisher, laid out as python-tuf's client wants it."""

    root: Path

    @property
    def roots(self) -> Path:
        return self.root / "root_history"

    def root_version(self, version: int) -> Path:
        return self.roots / metadata_file("root", version)

    def role(self, role: str) -> Path:
        return self.root / metadata_file(role)


def signing_key(folder: Path, purpose: str) -> Path:
    """The file of one private key in a publisher's key folder."""
    return folder / f"{purpose}.pem"


@dataclass(frozen=True, slots=True)
class HubCache:
    """One repository in the Hugging Face Hub's own cache. Source: huggingface_hub 2.4."""

    root: Path  # $HF_HUB_CACHE
    kind: str  # "model" or "dataset"
    name: str  # "org/name"

    @property
    def repository(self) -> Path:
        """Raises UsageError for a name that no repository can have."""
        parts = self.name.split("/")
        if len(parts) > 2 or not all(map(_PLAIN.fullmatch, parts)):
            raise UsageError(f"{self.name[:80]!r} is no name of a repository: [owner/]name")
        return self.root / "--".join([f"{self.kind}s", *self.name.split("/")])

    @property
    def snapshots(self) -> Path:
        return self.repository / "snapshots"

    def snapshot(self, commit: str) -> Path:
        return self.snapshots / plain(commit)

    def blob(self, name: str) -> Path:
        return self.repository / "blobs" / plain(name)

    def reference(self, revision: str) -> Path:
        """A file that holds a commit; a revision may have folders, such as refs/pr/1."""
        return self.repository.joinpath("refs", *(plain(part) for part in revision.split("/")))

    def tree(self, commit: str) -> Path:
        """What the Hub said of the files of a commit, as JSON."""
        return self.repository / "trees" / f"{plain(commit)}.json"

    def lock(self, name: str) -> Path:
        """Held by whoever writes a blob."""
        return self.root / ".locks" / self.repository.name / f"{plain(name)}.lock"


def hub_cache(named: str | None = None) -> Path:
    """The folder of the Hub's cache: as named, else as huggingface_hub's variables say."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    hub = os.environ.get("HF_HOME") or Path(cache) / "huggingface"
    chosen = named or os.environ.get("HF_HUB_CACHE") or Path(hub) / "hub"
    return Path(os.path.expandvars(chosen)).expanduser().absolute()


def ollama_models(named: str | None = None) -> Path:
    """The folder of ollama's models: as named, else as its variable says."""
    chosen = named or os.environ.get("OLLAMA_MODELS") or Path.home() / ".ollama" / "models"
    return Path(chosen).expanduser().absolute()


INCOMPLETE = ".incomplete"  # how the Hub's cache names what is still being downloaded
_OLLAMA_HOST = "registry.ollama.ai"  # what a name without a host means
_OLLAMA_OWNER = "library"


@dataclass(frozen=True, slots=True)
class OllamaModels:
    """A folder of ollama's models. Source: ollama's server/modelpath.go."""

    root: Path  # $OLLAMA_MODELS

    def blob(self, sha256_hex: str) -> Path:
        return self.root / "blobs" / f"sha256-{plain(sha256_hex)}"

    def manifest(self, name: str) -> Path:
        """The manifest that `ollama run NAME` reads. Raises UsageError."""
        path, _, tag = name.partition(":") if ":" in name.rpartition("/")[2] else (name, "", "")
        parts = path.split("/")
        parts = [_OLLAMA_HOST, _OLLAMA_OWNER][: max(0, 3 - len(parts))] + parts
        parts.append(tag or "latest")
        if len(parts) != 4 or not all(map(_PLAIN.fullmatch, parts)):
            raise UsageError(f"{name[:80]!r} is no name of ollama's: [owner/]model[:tag]")
        return self.root.joinpath("manifests", *parts)


TREE_UNDER_WAY = f"{PART_FOLDER}-"  # and a random rest: beside the place a tree shall appear at


def tree_under_way(above: Path, rest: str) -> Path:
    """Where a tree is built that is renamed to its place, in the same folder, once it is whole."""
    return above / f"{TREE_UNDER_WAY}{rest}"
