"""One publisher, followed: its metadata is fetched from peers, verified, kept, and served to other followers.

A peer can withhold and can send rubbish; it cannot forge. So every answer is looked at, rubbish is put aside, and of what
verifies the newest counts. In order, each step failing closed:

    1  first root is the publisher id; each next root by the rules of root_chain.py
    2  timestamp: verify all answers; two of one version that differ are equivocation; take the highest, never below the floor
    3  snapshot, targets and the role of the wanted name: by the length and SHA-256 that the file before names
    4  python-tuf's own client over the same files
    5  the floor: no role below what was seen, nothing different under a version that was seen
    6  keep: all files of the new state in a folder of their own, then one rename that makes it current, then the floor

The state before stays in use until step 6 and is untouched by anything that fails. No networking here: `fetch` is passed in.
All methods may be called from any thread; they block.

Source: TUF specification 5; SPEC.md, publishers.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

from tuf.api.metadata import Root, Timestamp

from p2phub.core.trust.freshness import Freshness, freshness, instant
from p2phub.core.trust.releases import ReleaseStatement, choose_release
from p2phub.digest import sha256
from p2phub.errors import (
    BadReleaseName,
    BrokenRootChain,
    FloorLost,
    MetadataExpired,
    MetadataIncomplete,
    ReleaseNotFound,
    RollbackRefused,
    TamperedMetadata,
    TrustError,
    UnknownPublisher,
)
from p2phub.proto.limits import (
    ANSWERS_MAX,
    ROOT_BYTES_MAX,
    ROOT_ROTATIONS_MAX,
    TIMESTAMP_BYTES_MAX,
)
from p2phub.proto.names import is_name, parse_publisher_id
from p2phub.trust.documents import (
    Document,
    read_role,
    read_timestamp,
    release_statements,
    timestamp_fields,
    verify_signatures,
)
from p2phub.trust.durable import make_folder, sync_folder
from p2phub.trust.floor import Floor, SeenStatement
from p2phub.trust.root_chain import check_first_root, check_next_root
from p2phub.trust.updater import DurableUpdater, tuf_errors

# All distinct answers of the peers that were asked: (file name, most bytes) -> files. Empty only if every peer that answered
# says that there is no such file; raises NoProvider if none answered.
Fetch: TypeAlias = Callable[[str, int], list[bytes]]

_FILE_NAME: Final = re.compile(r"([1-9][0-9]{0,15})\.([A-Za-z0-9._-]{1,96})\.json", re.ASCII)
_CURRENT: Final = "current"
_VIEW: Final = re.compile(r"view-([0-9]{1,12})")


@dataclass(frozen=True, slots=True)
class FreshView:
    """What is known of a publisher, and how old it is."""

    publisher_id: str
    state: Freshness
    root_version: int
    timestamp_version: int
    fresh_until: datetime
    expires: datetime
    peers: tuple[str, ...]  # multiaddrs the publisher gave for its own node
    names: tuple[str, ...]  # of models and datasets it publishes
    changed: bool  # whether this refresh brought anything new
    refused: tuple[TrustError, ...]  # what some peers offered and was put aside; for showing and for scoring


class Follower:
    """One publisher's verified state in one folder. One instance per folder at a time."""

    def __init__(self, publisher_id: str, folder: Path, floor: Floor, fetch: Fetch) -> None:
        """Raises UnknownReference unless `publisher_id` is a whole id."""
        parse_publisher_id(publisher_id)
        make_folder(folder)
        self.publisher_id = publisher_id
        self._folder = folder
        self._floor = floor
        self._fetch = fetch
        self._lock = threading.RLock()
        self._view: _View | None = None
        self._previous: _View | None = None

    def refresh(self, now: datetime | float) -> FreshView:
        """Ask the peers what is new, verify it and keep it.

        Raises RollbackRefused if all they have is older than what is held (which stays in use), NoProvider if nobody
        answered, UnknownPublisher if nobody has anything, MetadataExpired, EquivocationFound, and the TrustError of what was
        wrong with the answers when none of them verifies.
        """
        with self._lock, tuf_errors():
            moment = self._trusted_now(now)
            self._floor.check_halted(self.publisher_id)
            return self._advance(self._fetch, moment, everything=False)

    def import_metadata(self, files: Mapping[str, bytes], now: datetime | float) -> FreshView:
        """Take signed files from the publisher's own command, verified as if peers had sent them.

        files: by name; those that did not change may be left out. Raises as `refresh` does.
        """

        def offered(file_name: str, bytes_max: int) -> list[bytes]:
            data = files.get(file_name) or self.metadata(file_name)
            return [data] if data is not None else []

        with self._lock, tuf_errors():
            moment = self._trusted_now(now)
            self._floor.check_halted(self.publisher_id)
            return self._advance(offered, moment, everything=True)

    def known(self, now: datetime | float) -> FreshView:
        """What is held, without asking anybody. Raises UnknownPublisher if that is nothing."""
        with self._lock, tuf_errors():
            moment = self._trusted_now(now)
            return self._describe(self._held_view(), moment)

    def resolve(
        self,
        name: str,
        version: str | None,
        now: datetime | float,
        allow_yanked: bool = False,
    ) -> ReleaseStatement:
        """The release that `name` and `version` mean in the state held; None is the latest.

        Fetches the name's own file if it is not held yet; does not refresh. When the state is expired or halted, only a given
        version of a name whose file is held can be had. Raises ReleaseNotFound, ReleaseYanked, MetadataExpired,
        EquivocationFound, BadVersion, BadReleaseName, NoProvider.
        """
        if not is_name(name):
            raise BadReleaseName(f"{ascii(name[:120])} cannot name a release", name=name[:120])
        with self._lock, tuf_errors():
            moment = self._trusted_now(now)
            view = self._held_view()
            state = self._state(view, moment)
            if not state.may_follow and (version is None or not view.holds(name)):
                self._floor.check_halted(self.publisher_id)
                raise MetadataExpired(
                    "the publisher's last signed word expired on "
                    f"{view.expires:%Y-%m-%d}: give the version of a release that is known here",
                    expires=view.expires.isoformat(),
                )
            releases = self._releases_of(view, name, moment)
            return choose_release(
                releases, name=name, version=version, allow_yanked=allow_yanked
            )

    def releases(self) -> list[ReleaseStatement]:
        """All releases whose files are held, by name. Empty if nothing is held or the floor is lost."""
        with self._lock, tuf_errors():
            try:
                view = self._held_view()
            except TrustError:
                return []
            found: list[ReleaseStatement] = []
            for name in view.names:
                if view.holds(name):
                    found += view.statements(self.publisher_id, name)
            return found

    def metadata(self, file_name: str) -> bytes | None:
        """A file as other followers may ask for it, of the current state or the one before; None if it is not held."""
        if self._view is None and self._lock.acquire(blocking=False):
            # A refresh that is under way holds the lock; whoever asks meanwhile is told "not held".
            try:
                self._held_view()
            except TrustError:
                return None
            finally:
                self._lock.release()
        for view in (self._view, self._previous):
            data = view.file(file_name) if view is not None else None
            if data is not None:
                return data
        return None

    # ---- steps ----------------------------------------------------------------------------------

    def _trusted_now(self, now: datetime | float) -> datetime:
        if not self._floor.knows(self.publisher_id) and (self._folder / _CURRENT).is_symlink():
            raise FloorLost(publisher_id=self.publisher_id)
        return self._floor.time(instant(now))

    def _advance(self, ask: Fetch, moment: datetime, everything: bool) -> FreshView:
        refused: list[TrustError] = []
        held = self._held_files()
        roots = self._walk_roots(ask, held.roots, refused, moment)
        timestamp = self._choose_timestamp(ask, held.timestamp, roots[-1], refused, moment)

        known = held.timestamp
        is_new = known is None or known != timestamp.data or len(roots) != len(held.roots)
        folder = self._new_view(held.folder) if is_new or held.folder is None else held.folder
        view = _View(folder, roots, timestamp, ask, moment)
        view.forget_stale_snapshot()
        view.updater.refresh()
        self._check_floor(view, moment)
        for name in view.names if everything else ():
            view.load(name)
            self._check_floor(view, moment)
        if folder != held.folder:
            self._floor.introduce(self.publisher_id, moment)
            self._make_current(folder)
        self._floor.raise_to(self.publisher_id, view.seen(), moment)
        if self._view is not None and folder != self._view.folder:
            self._previous = self._view
        self._view = view
        view.ask = self._fetch
        return self._describe(view, moment, changed=is_new, refused=refused)

    def _walk_roots(
        self, ask: Fetch, held: list[bytes], refused: list[TrustError], moment: datetime
    ) -> list[Document[Root]]:
        """Step 1: every root from the first to the newest that anybody has."""
        floor = self._floor.seen(self.publisher_id).get("root")
        roots: list[Document[Root]] = []
        while len(roots) < ROOT_ROTATIONS_MAX:
            version = len(roots) + 1
            is_held = version <= len(held)
            answers = [held[version - 1]] if is_held else _answers(ask, f"{version}.root.json", ROOT_BYTES_MAX)
            lawful: dict[bytes, Document[Root]] = {}
            failures: list[TrustError] = []
            for data in answers:
                try:
                    root = check_next_root(roots[-1], data) if roots else check_first_root(self.publisher_id, data)
                except TrustError as error:
                    failures.append(error)
                else:
                    lawful.setdefault(root.payload_sha256, root)
            if is_held and not lawful:
                raise failures[0]
            refused += failures
            if len(lawful) > 1:
                first, second, *_ = lawful.values()
                raise self._floor.accuse(
                    self.publisher_id, "root", version, first.data, second.data, moment
                )
            if not lawful:
                break
            root = next(iter(lawful.values()))
            if floor and floor.version == version and floor.payload_sha256 != root.payload_sha256:
                raise self._floor.accuse(
                    self.publisher_id, "root", version, None, root.data, moment
                )
            roots.append(root)
        if not roots:
            raise refused[0] if refused else UnknownPublisher(publisher_id=self.publisher_id)
        if floor and roots[-1].version < floor.version:
            raise RollbackRefused(
                f"root version {floor.version} was seen, but only version {roots[-1].version} "
                "can be had now",
                role="root",
                version=roots[-1].version,
                floor=floor.version,
            )
        return roots

    def _choose_timestamp(
        self,
        ask: Fetch,
        held: bytes | None,
        root: Document[Root],
        refused: list[TrustError],
        moment: datetime,
    ) -> Document[Timestamp]:
        """Step 2: the newest of all that verify; what is held counts as one more."""
        answers = _answers(ask, "timestamp.json", TIMESTAMP_BYTES_MAX)
        failures: list[TrustError] = []
        verified: dict[int, Document[Timestamp]] = {}
        offered_max = 0
        for data in [held, *answers] if held is not None else answers:
            try:
                timestamp = read_timestamp(data)
                verify_signatures(timestamp, root.signed)
            except TrustError as error:
                # A held file fails only after the root gave the role to other keys: then it no longer counts.
                if data is not held:
                    failures.append(error)
                continue
            other = verified.setdefault(timestamp.version, timestamp)
            if other.payload_sha256 != timestamp.payload_sha256:
                raise self._floor.accuse(
                    self.publisher_id,
                    "timestamp",
                    timestamp.version,
                    other.data,
                    timestamp.data,
                    moment,
                )
            if data is not held or data in answers:
                offered_max = max(offered_max, timestamp.version)
        refused += failures
        if answers and not offered_max:
            raise refused[0]
        if not verified:
            raise UnknownPublisher(publisher_id=self.publisher_id)
        newest = verified[max(verified)]
        seen = self._floor.seen(self.publisher_id).get("timestamp")
        floor = seen.version if seen and seen.authority == _authority(root.signed, "timestamp") else 0
        if max(newest.version if held else 0, floor) > (offered_max or newest.version):
            raise RollbackRefused(
                f"all that was offered is timestamp version {offered_max or newest.version} or "
                f"older, but version {max(newest.version, floor)} was already seen",
                role="timestamp",
                version=offered_max or newest.version,
                floor=max(newest.version, floor),
            )
        if timestamp_fields(newest.signed).root_version > root.version:
            raise refused[0] if refused else BrokenRootChain(
                "the timestamp was signed under root version "
                f"{timestamp_fields(newest.signed).root_version}, which nobody could show",
                expected=timestamp_fields(newest.signed).root_version,
                got=root.version,
            )
        return newest

    def _check_floor(self, view: _View, moment: datetime) -> None:
        """Step 5, for all that `view` has verified."""
        seen = self._floor.seen(self.publisher_id)
        for statement in view.seen():
            known = seen.get(statement.role)
            if known is None or known.authority != statement.authority:
                continue
            if statement.version < known.version:
                raise RollbackRefused(
                    f"{statement.role} version {statement.version} is older than version "
                    f"{known.version}, already seen",
                    role=statement.role,
                    version=statement.version,
                    floor=known.version,
                )
            if (
                statement.version == known.version
                and statement.payload_sha256 != known.payload_sha256
            ):
                first = self._held_role(statement.role, known.payload_sha256)
                raise self._floor.accuse(
                    self.publisher_id,
                    statement.role,
                    statement.version,
                    first,
                    view.documents[statement.role].data,
                    moment,
                )
        # A snapshot may not drop or turn back a name that was ever verified, also if its file is not held now.
        meta = view.updater.snapshot.meta
        for role, known in seen.items():
            if not is_name(role):
                continue
            listed = meta.get(f"{role}.json")
            if listed is None or listed.version < known.version:
                raise RollbackRefused(
                    f"the snapshot turns {role} back behind version {known.version}",
                    role=role,
                    floor=known.version,
                )

    def _releases_of(
        self, view: _View, name: str, moment: datetime
    ) -> tuple[ReleaseStatement, ...]:
        if not view.load(name):
            shown = ", ".join(view.names[:8]) or "nothing yet"
            raise ReleaseNotFound(
                f"the publisher has signed no release of {name}; it publishes {shown}", name=name
            )
        self._check_floor(view, moment)
        seen = self._floor.seen(self.publisher_id).get(name)
        if seen is None or seen.version < view.documents[name].version:
            self._floor.raise_to(self.publisher_id, [view.seen_of(name)], moment)
        return view.statements(self.publisher_id, name)

    # ---- what is held ---------------------------------------------------------------------------

    def _held_view(self) -> _View:
        """The state on disk, verified anew at the first use after a start, as of when it was last current."""
        if self._view is not None:
            return self._view
        held = self._held_files()
        if held.folder is None or held.timestamp is None:
            raise UnknownPublisher(publisher_id=self.publisher_id)
        if not self._floor.knows(self.publisher_id):
            raise FloorLost(publisher_id=self.publisher_id)
        as_of = self._floor.time_of(self.publisher_id)
        if as_of is None:
            # The floor was reset: what is on disk counts again only after a refresh.
            raise UnknownPublisher(publisher_id=self.publisher_id)
        refused: list[TrustError] = []
        roots = self._walk_roots(_nobody, held.roots, refused, as_of)
        timestamp = self._choose_timestamp(_nobody, held.timestamp, roots[-1], refused, as_of)
        view = _View(held.folder, roots, timestamp, _nobody, as_of)
        view.updater.refresh()
        self._check_floor(view, as_of)
        view.ask = self._fetch
        self._view = view
        return view

    def _held_files(self) -> _HeldFiles:
        pointer = self._folder / _CURRENT
        if not pointer.is_symlink():
            return _HeldFiles(None, [], None)
        folder = self._folder / os.readlink(pointer)
        roots: list[bytes] = []
        timestamp: bytes | None = None
        try:
            while (path := folder / "root_history" / f"{len(roots) + 1}.root.json").exists():
                roots.append(path.read_bytes())
            timestamp = (folder / "timestamp.json").read_bytes()
        except FileNotFoundError:
            pass  # a view whose files were removed counts as none; the floor still stands
        return _HeldFiles(folder if timestamp is not None else None, roots, timestamp)

    def _held_role(self, role: str, payload_sha256: bytes) -> bytes | None:
        """The file of the state before that says what the floor remembers, as the first half of a proof."""
        folder = self._held_files().folder
        path = None if folder is None else folder / f"{role}.json"
        if path is None or not path.exists():
            return None
        data = path.read_bytes()
        document = read_timestamp(data) if role == "timestamp" else read_role(role, data)
        return data if document.payload_sha256 == payload_sha256 else None

    def _new_view(self, held: Path | None) -> Path:
        """A folder for the next state, begun with links to the files of the present one."""
        numbers = []
        for path in self._folder.iterdir():
            match = _VIEW.fullmatch(path.name)
            if match is None:
                continue
            # Left by a refresh that failed, or older than the state that is still served as the one before.
            if path == held or (self._view is not None and path == self._view.folder):
                numbers.append(int(match[1]))
            else:
                shutil.rmtree(path)
        folder = self._folder / f"view-{max(numbers, default=0) + 1}"
        make_folder(folder / "root_history")
        if held is not None:
            for source in [*held.glob("*.json"), *held.glob("root_history/*.json")]:
                if not source.is_symlink():
                    os.link(source, folder / source.relative_to(held))
        return folder

    def _make_current(self, folder: Path) -> None:
        sync_folder(folder / "root_history")
        sync_folder(folder)
        pointer = self._folder / f"{_CURRENT}.next"
        pointer.unlink(missing_ok=True)
        pointer.symlink_to(folder.name)
        os.replace(pointer, self._folder / _CURRENT)
        sync_folder(self._folder)

    def _state(self, view: _View, moment: datetime) -> Freshness:
        return freshness(
            moment,
            fresh_until=timestamp_fields(view.updater.timestamp).fresh_until,
            expires=view.expires,
            halted=bool(self._floor.evidence(self.publisher_id)),
        )

    def _describe(
        self,
        view: _View,
        moment: datetime,
        changed: bool = False,
        refused: Iterable[TrustError] = (),
    ) -> FreshView:
        fields = timestamp_fields(view.updater.timestamp)
        return FreshView(
            publisher_id=self.publisher_id,
            state=self._state(view, moment),
            root_version=view.updater.root.version,
            timestamp_version=view.updater.timestamp.version,
            fresh_until=fields.fresh_until,
            expires=view.expires,
            peers=fields.peers,
            names=view.names,
            changed=changed,
            refused=tuple(refused),
        )


@dataclass(frozen=True, slots=True)
class _HeldFiles:
    folder: Path | None
    roots: list[bytes]
    timestamp: bytes | None


class _View:
    """One state: the roots and a timestamp, and what is verified under them as it is asked for."""

    def __init__(
        self,
        folder: Path,
        roots: list[Document[Root]],
        timestamp: Document[Timestamp],
        ask: Fetch,
        reference_time: datetime,
    ) -> None:
        self.folder = folder
        self.ask = ask
        self.documents: dict[str, Document[Any]] = {"root": roots[-1], "timestamp": timestamp}
        self._roots = {f"{root.version}.root.json": root.data for root in roots}
        self.updater = DurableUpdater(folder, self._look_up, roots[0].data, reference_time)

    @property
    def names(self) -> tuple[str, ...]:
        """Names that have a role."""
        delegations = self.updater.targets.delegations
        return tuple(delegations.roles) if delegations and delegations.roles else ()

    @property
    def expires(self) -> datetime:
        """When the first of the files that all names depend on expires."""
        updater = self.updater
        return min(
            signed.expires
            for signed in (updater.root, updater.timestamp, updater.snapshot, updater.targets)
        )

    def load(self, name: str) -> bool:
        """Verify the file of one name, fetching it if need be; False if the publisher has no such name."""
        if name not in self.names:
            return False
        return self.updater.load_name(name) and self._document(name) is not None

    def holds(self, name: str) -> bool:
        """Whether the file of a name is here, so that nobody need be asked."""
        meta = self.updater.snapshot.meta.get(f"{name}.json")
        return meta is not None and self.file(f"{meta.version}.{name}.json") is not None

    def statements(self, publisher_id: str, name: str) -> tuple[ReleaseStatement, ...]:
        """The releases of a name whose file is held."""
        self.load(name)
        releases = self.documents[name].signed
        return release_statements(publisher_id, name, releases, self.updater.root.version)

    def seen(self) -> list[SeenStatement]:
        """All that was verified, for the floor."""
        for role in ("snapshot", "targets"):
            self._document(role)
        return [self.seen_of(role) for role in self.documents]

    def seen_of(self, role: str) -> SeenStatement:
        """One verified file, for the floor."""
        document = self.documents[role]
        root = self.updater.root
        if role == "root":
            authority = b""  # versions of roots go up by one for ever, whatever keys they name
        elif role in root.roles:
            authority = _authority(root, role)
        else:
            authority = _authority(self.updater.targets, role)
        return SeenStatement(role, document.version, document.payload_sha256, authority)

    def file(self, file_name: str) -> bytes | None:
        """A file of this state by the name that peers ask for; its hash is checked against what names it."""
        if file_name == "timestamp.json":
            return self.documents["timestamp"].data
        if file_name in self._roots:
            return self._roots[file_name]
        match = _FILE_NAME.fullmatch(file_name)
        if match is None:
            return None
        meta = self._meta_of(match[2])
        if meta is None or meta.version != int(match[1]):
            return None
        try:
            data = (self.folder / f"{match[2]}.json").read_bytes()
        except FileNotFoundError:
            return None
        return data if sha256(data).hex() == meta.hashes["sha256"] else None

    def forget_stale_snapshot(self) -> None:
        """Drop a held snapshot of the announced version but with other content.

        tuf would take it for the announced one, unhashed. Fetched anew, it is then compared with the floor.
        """
        path = self.folder / "snapshot.json"
        meta = self._meta_of("snapshot")
        if path.exists() and sha256(path.read_bytes()).hex() != meta.hashes["sha256"]:
            if read_role("snapshot", path.read_bytes()).version == meta.version:
                path.unlink()

    def _document(self, role: str) -> Document[Any]:
        document = self.documents.get(role)
        if document is None:
            # tuf has just verified this very file, or fetched it through _look_up.
            document = read_role(role, (self.folder / f"{role}.json").read_bytes())
            self.documents[role] = document
        return document

    def _look_up(self, file_name: str) -> bytes | None:
        """Steps 1 to 3 as tuf sees them: roots and timestamp are chosen already, the rest is named by hash."""
        if file_name == "timestamp.json":
            return self.documents["timestamp"].data
        match = _FILE_NAME.fullmatch(file_name)
        if match is None or match[2] == "root":
            return self._roots.get(file_name)
        role = match[2]
        meta = self._meta_of(role)
        answers = _answers(self.ask, file_name, meta.length)
        for data in answers:
            if len(data) == meta.length and sha256(data).hex() == meta.hashes["sha256"]:
                read_role(role, data)
                return data
        if answers:
            raise TamperedMetadata(
                f"no peer has the {file_name} that the publisher signed, only others", file=file_name
            )
        raise MetadataIncomplete(f"no peer that answered has {file_name}", file=file_name)

    def _meta_of(self, role: str) -> Any:
        """What the file before says of this one. Any: tuf types its hashes as optional, our profile requires them."""
        if role == "snapshot":
            return self.documents["timestamp"].signed.snapshot_meta
        return self.updater.snapshot.meta.get(f"{role}.json")


def _answers(ask: Fetch, file_name: str, bytes_max: int) -> list[bytes]:
    """Distinct answers, no more of them and none longer than allowed."""
    return [data for data in dict.fromkeys(ask(file_name, bytes_max)) if len(data) <= bytes_max][:ANSWERS_MAX]


def _nobody(file_name: str, bytes_max: int) -> list[bytes]:
    """A network without peers, for looking at what is held."""
    return []


def _authority(delegator: Any, role: str) -> bytes:
    """What identifies the keys and threshold that a role is signed under. Any: tuf has no common type for delegators."""
    named = delegator.get_delegated_role(role)
    return sha256(f"{named.threshold}:{','.join(sorted(named.keyids))}".encode("ascii"))
