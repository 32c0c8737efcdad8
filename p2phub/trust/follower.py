"""One publisher, followed: its metadata is fetched, verified, kept, and served to other followers.

A peer can withhold and can send rubbish; it cannot forge. So every answer is looked at, rubbish is
put aside, and of what verifies the newest counts. In order, each step failing closed:

    1  first root is the publisher id; each next root by the rules of root_chain.py
    2  timestamp: verify all answers; two of one version that differ are equivocation; take the
       highest, never below the floor
    3  snapshot, targets, the role of the wanted name: by length and SHA-256 from the file before
    4  python-tuf's own client over the same files
    5  the floor: no role below what was seen, nothing different under a version that was seen
    6  keep: all files of the new state in a folder of their own; one rename makes it current; then
       the floor

The state before stays in use until step 6 and is untouched by anything that fails. No networking
here: `fetch` is passed in. All methods may be called from any thread; they block.

Source: TUF specification 5; SPEC.md, publishers.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from p2phub.core.trust.freshness import Freshness, freshness, instant
from p2phub.core.trust.releases import ReleaseStatement, choose_release
from p2phub.durable import failures, make_folder, sync_folder
from p2phub.errors import (
    BadReleaseName,
    FloorLost,
    MetadataExpired,
    ReleaseNotFound,
    RollbackRefused,
    TrustError,
    UnknownPublisher,
)
from p2phub.paths import FollowedFolder, StateFolder
from p2phub.proto.names import is_name, parse_publisher_id
from p2phub.trust.documents import (
    read_role,
    read_timestamp,
    timestamp_fields,
)
from p2phub.trust.floor import Floor
from p2phub.trust.selection import Selection, nobody
from p2phub.trust.updater import tuf_errors
from p2phub.trust.view import Fetch, View


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
    refused: tuple[TrustError, ...]  # what some peers offered and was put aside; to be shown


class Follower:
    """One publisher's verified state in one folder. One instance per folder at a time."""

    def __init__(self, publisher_id: str, folder: Path, floor: Floor, fetch: Fetch) -> None:
        """Raises UnknownReference unless `publisher_id` is a whole id."""
        parse_publisher_id(publisher_id)
        make_folder(folder)
        self.publisher_id = publisher_id
        self._folder = folder
        self._paths = FollowedFolder(folder)
        self._floor = floor
        self._fetch = fetch
        self._lock = threading.RLock()
        self._view: View | None = None
        self._previous: View | None = None

    def refresh(self, now: datetime | float) -> FreshView:
        """Ask the peers what is new, verify it and keep it.

        Raises RollbackRefused if all they have is older than what is held (which stays in use),
        NoProvider if nobody answered, UnknownPublisher if nobody has anything, MetadataExpired,
        EquivocationFound, and the TrustError of what was wrong with the answers when none of them
        verifies.
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

        Fetches the name's own file if it is not held yet; does not refresh. When the state is
        expired or halted, only a given version of a name whose file is held can be had. Raises
        ReleaseNotFound, ReleaseYanked, MetadataExpired, EquivocationFound, BadVersion,
        BadReleaseName, NoProvider.
        """
        if not is_name(name):
            raise BadReleaseName(f"{name[:120]!a} cannot name a release", name=name[:120])
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
            return choose_release(releases, name=name, version=version, allow_yanked=allow_yanked)

    def releases(self) -> list[ReleaseStatement]:
        """All releases whose files are held, by name; none if nothing is held or trusted."""
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
        """A file as other followers ask for it, of this state or the one before; else None."""
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

    def reset(self, now: datetime | float) -> None:
        """Forget the floor and any evidence, because a person says so: trust what is signed next.

        The state held is kept, unless the publisher was halted: then it begins anew.
        """
        with self._lock:
            try:
                halted = bool(self._floor.evidence(self.publisher_id))
            except FloorLost:
                halted = False
            self._floor.reset(self.publisher_id, instant(now))
            self._view = self._previous = None
            if halted:
                with failures(self._folder):
                    self._paths.current.unlink(missing_ok=True)
                sync_folder(self._folder)

    # ---- steps ----------------------------------------------------------------------------------

    def _trusted_now(self, now: datetime | float) -> datetime:
        if not self._floor.knows(self.publisher_id) and self._paths.current.is_symlink():
            raise FloorLost(publisher_id=self.publisher_id)
        return self._floor.time(instant(now))

    def _advance(self, ask: Fetch, moment: datetime, everything: bool) -> FreshView:
        held = self._held_files()
        selection = Selection(self.publisher_id, self._floor, ask, moment)
        roots = selection.roots(held.roots)
        timestamp = selection.timestamp(held.timestamp, roots[-1])

        is_new = held.timestamp != timestamp.data or len(held.roots) != len(roots)
        folder = self._new_state(held.folder) if is_new or held.folder is None else held.folder
        view = View(folder, roots, timestamp, ask, moment)
        view.forget_stale_snapshot()
        view.updater.refresh()
        for name in view.names if everything else ():
            if not view.holds(name):
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
        return self._describe(view, moment, changed=is_new, refused=selection.refused)

    def _check_floor(self, view: View, moment: datetime) -> None:
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
        # A snapshot may not drop or turn back a name that was ever verified, also if its file is
        # not held now.
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

    def _releases_of(self, view: View, name: str, moment: datetime) -> tuple[ReleaseStatement, ...]:
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

    def _held_view(self) -> View:
        """The state on disk, verified anew after a start, as of when it was last current."""
        if self._view is not None:
            return self._view
        held = self._held_files()
        if held.folder is None or held.timestamp is None:
            raise UnknownPublisher(publisher_id=self.publisher_id)
        as_of = self._floor.time_of(self.publisher_id)
        if as_of is None:
            raise FloorLost(publisher_id=self.publisher_id)
        selection = Selection(self.publisher_id, self._floor, nobody, as_of)
        roots = selection.roots(held.roots)
        timestamp = selection.timestamp(held.timestamp, roots[-1])
        view = View(held.folder, roots, timestamp, nobody, as_of)
        view.updater.refresh()
        self._check_floor(view, as_of)
        view.ask = self._fetch
        self._view = view
        return view

    def _held_files(self) -> _HeldFiles:
        if not self._paths.current.is_symlink():
            return _HeldFiles(None, [], None)
        folder = self._folder / os.readlink(self._paths.current)
        state = StateFolder(folder)
        roots: list[bytes] = []
        timestamp: bytes | None = None
        try:
            while (path := state.root_version(len(roots) + 1)).exists():
                roots.append(path.read_bytes())
            timestamp = state.role("timestamp").read_bytes()
        except FileNotFoundError:
            pass  # a state whose files were removed counts as none; the floor still stands
        return _HeldFiles(folder if timestamp is not None else None, roots, timestamp)

    def _held_role(self, role: str, payload_sha256: bytes) -> bytes | None:
        """The file that says what the floor remembers, as the first half of a proof."""
        folder = self._held_files().folder
        if folder is None:
            return None
        try:
            data = StateFolder(folder).role(role).read_bytes()
        except FileNotFoundError:
            return None
        document = read_timestamp(data) if role == "timestamp" else read_role(role, data)
        return data if document.payload_sha256 == payload_sha256 else None

    def _new_state(self, held: Path | None) -> Path:
        """A folder for the next state, begun with links to the files of the present one."""
        in_use = [held, self._view.folder if self._view is not None else None]
        highest = 0
        for path in self._folder.iterdir():
            number = self._paths.state_number(path)
            if number is None:
                continue
            if path in in_use:
                highest = max(highest, number)
            else:
                # Left by a refresh that failed, or older than the state still served.
                shutil.rmtree(path)
        folder = self._paths.state(highest + 1)
        make_folder(StateFolder(folder).roots)
        if held is not None:
            for source in held.rglob("*.json"):
                if not source.is_symlink():
                    os.link(source, folder / source.relative_to(held))
        return folder

    def _make_current(self, folder: Path) -> None:
        sync_folder(StateFolder(folder).roots)
        sync_folder(folder)
        self._paths.next_current.unlink(missing_ok=True)
        self._paths.next_current.symlink_to(folder.name)
        os.replace(self._paths.next_current, self._paths.current)
        sync_folder(self._folder)

    def _state(self, view: View, moment: datetime) -> Freshness:
        return freshness(
            moment,
            fresh_until=timestamp_fields(view.updater.timestamp).fresh_until,
            expires=view.expires,
            halted=bool(self._floor.evidence(self.publisher_id)),
        )

    def _describe(
        self,
        view: View,
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
