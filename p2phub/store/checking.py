"""Comparing what a store says in several places: index, files, packs and journal.

Contents are not read here, but for users' files that were touched: `scrubbing.py` does that. The
index is believed where the journal differs, since its commits are durable and the journal's lines
come first; files without a row get one if they are what their name says, and are set aside
otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from p2phub.digest import Digest, Sha256
from p2phub.errors import ContentError, CorruptChunk, NotHeld, StoreError, StoreFailed
from p2phub.proto.manifest import FilePage, Manifest, document_kind
from p2phub.store.base import INCONSISTENCIES_MAX, Inconsistency
from p2phub.store.file_system import listed
from p2phub.store.finishing import Finishing
from p2phub.store.holdings import Holdings
from p2phub.store.journal import Entry, Journal, adopted, kept, let_go, parse_name, part
from p2phub.store.packs import Location, numbers, scan
from p2phub.store.parts import Parts
from p2phub.store.rebuild import Rebuild
from p2phub.store.rows import ObjectRow
from p2phub.store.stamps import FileStamp

READ_BYTES = 1 << 20  # at a time, when a whole file is hashed


class Checking:
    """One check of one store."""

    def __init__(
        self, holdings: Holdings, journal: Journal, parts: Parts, finishing: Finishing
    ) -> None:
        self._holdings = holdings
        self._journal = journal
        self._parts = parts
        self._finishing = finishing
        self._rebuild = Rebuild(holdings, journal)
        self._found: list[Inconsistency] = []

    def run(self, *, is_repair: bool) -> list[Inconsistency]:
        """See `Store.check`."""
        faults = self._holdings.index.faults()
        if faults:
            self._renew_index(faults, is_repair)
            return self._found
        self._lost_files()
        self._returned_files(is_repair)
        self._files_without_row(is_repair)
        self._lost_documents(is_repair)
        self._compare_journal(is_repair)
        return self._found

    def _tell(self, what: str, *, is_repaired: bool) -> None:
        if len(self._found) < INCONSISTENCIES_MAX:
            self._found.append(Inconsistency(what, is_repaired))

    def _renew_index(self, faults: list[str], is_repair: bool) -> None:
        folder, files = self._holdings.folder, self._holdings.files
        if is_repair:
            files.close(files.open(folder.rebuilding, os.O_WRONLY | os.O_CREAT))
            files.sync_folder(folder.root)
        end = ": it is made again when the daemon starts next" if is_repair else ""
        self._tell(f"the index is damaged ({faults[0]}){end}", is_repaired=False)

    # ---- rows and files

    def _lost_files(self) -> None:
        """Rows of the store's own whose file is gone: as any read would, say that it is."""
        index = self._holdings.index
        for id in index.object_ids("kind != 'adopted' AND state != 'changed'"):
            object = self._holdings.objects.get(id)
            if object is None or object.is_closing:
                continue
            path = self._holdings.path(object)
            if not _is_gone(path):
                continue
            self._holdings.check_mounted()
            if object.row.kind == "part":
                with suppress(StoreFailed):  # it was being finished, or is gone
                    self._finishing.settle(object, is_anew=True)
            else:
                with self._holdings.sweeping:  # not in the moment in which another replaces it
                    if not _is_gone(path) or self._holdings.index.object(id) is None:
                        continue
                    self._holdings.withdraw(object, "was removed")
            self._tell(f"the index said that {path} is there, and it is not", is_repaired=True)

    def _returned_files(self, is_repair: bool) -> None:
        """Users' files that were gone or touched and are there as they were: by their stamp or,
        in a repair, by every byte.
        """
        index = self._holdings.index
        damaged = set(index.damaged())
        for id in index.object_ids("kind = 'adopted' AND state = 'changed'"):
            row = index.object(id)
            if row is None or row.path is None:
                continue
            try:
                stamp = FileStamp.of(os.lstat(row.path))
            except OSError:
                continue
            is_same = stamp == row.stamp and row.digest not in damaged
            if not is_same and not (is_repair and self._is_content(row, row.path, stamp)):
                continue
            done = is_repair and self._rebuild.again(row.digest, row.path, "adopted", stamp)
            if done and stamp != row.stamp:
                self._journal.append([adopted(row, row.path, stamp)])
            self._tell(f"{row.path} was away or touched, and is as it was", is_repaired=done)

    def _is_content(self, row: ObjectRow, path: Path, stamp: FileStamp) -> bool:
        """Whether the file with this stamp has the object's SHA-256: it is read whole."""
        files, state = self._holdings.files, Sha256()
        if stamp.size != row.size:
            return False
        try:
            file = files.open(path, os.O_RDONLY)
        except (StoreFailed, FileNotFoundError):
            return False
        try:
            buffer, done = memoryview(bytearray(READ_BYTES)), 0
            while got := files.read(file, buffer, done, path):
                state.update(buffer[:got])
                done += got
            is_unchanged = FileStamp.of(files.status(file, path)) == stamp
            return is_unchanged and state.digest() == row.sha256
        except StoreFailed:
            return False
        finally:
            files.close(file)

    def _files_without_row(self, is_repair: bool) -> None:
        holdings, folder = self._holdings, self._holdings.folder
        with self._parts.exclusive, holdings.sweeping:
            whole, parts = holdings.index.files("data"), holdings.index.files("part")
            doomed = set(holdings.index.doomed())
            for path in self._own_files():
                is_part = path.parent == folder.parts
                try:
                    name = parse_name(path.name)
                except ValueError:
                    name = b""
                if path in doomed or name in (parts if is_part else whole):
                    continue
                with holdings.keeping.lock:
                    if holdings.keeping.is_noted(name):
                        continue  # it is being taken, and gets its row next
                fate = self._understand(path, name, is_part) if is_repair else ""
                self._tell(f"the index knows nothing of {path}{fate}", is_repaired=bool(fate))

    def _own_files(self) -> Iterator[Path]:
        folder = self._holdings.folder
        yield from (folder.parts / text for text in listed(folder.parts))
        for above in listed(folder.data):
            yield from (folder.data / above / text for text in listed(folder.data / above))

    def _understand(self, path: Path, name: Digest, is_part: bool) -> str:
        """Give a file its row, or set it aside; what was done, as the end of a sentence."""
        if is_part:
            is_known = bool(name) and self._rebuild.part(path.name, path)
        else:
            is_there = bool(name) and path == self._holdings.folder.whole(name)
            is_known = is_there and self._rebuild.again(name, path, "data", None)
        if is_known:
            return ": now it does"
        return f": it was set aside as {self._holdings.quarantine.take(path)}"

    # ---- documents

    def _lost_documents(self, is_repair: bool) -> None:
        """Documents of kept releases that the index lacks and that lie in a pack all the same."""
        searched: set[Digest] = set()
        while missing := self._missing_documents() - searched:
            searched |= missing
            found = self._in_packs(missing)
            for name, location in found.items():
                self._tell(
                    f"the index lacked the document {name.hex()} in"
                    f" {self._holdings.folder.pack(location.pack)}",
                    is_repaired=is_repair,
                )
            if not found or not is_repair:
                return
            ends: dict[int, int] = {}
            for at in found.values():
                ends[at.pack] = max(ends.get(at.pack, 0), at.offset + at.length)
            with self._holdings.index.transaction() as change:
                change.add_chunks(found.items(), ends)
            self._holdings.packs.committed({}, ends)

    def _missing_documents(self) -> set[Digest]:
        wanted: set[Digest] = set()
        named = self._holdings.objects.named
        for release in self._holdings.index.releases():
            wanted.add(release.manifest)
            with suppress(NotHeld, CorruptChunk, ContentError):
                data = self._holdings.get(release.manifest)
                if document_kind(data) != "manifest":
                    continue
                pages = [page.digest for page in Manifest.decode(data).pages]
                wanted.update(pages)
                for page in pages:
                    for file in FilePage.decode(self._holdings.get(page)).files:
                        if file.has_record and (object := named(file.object)):
                            wanted.add(file.object)
                            wanted.update(segment.digest for segment in object.segments)
        return wanted - self._holdings.has(list(wanted), is_durable=False)

    def _in_packs(self, names: set[Digest]) -> dict[Digest, Location]:
        """Where documents lie durably that the index does not list."""
        holdings, found = self._holdings, dict[Digest, Location]()
        ends, in_use = holdings.index.pack_ends(), holdings.packs.in_use()
        for number in numbers(listed(holdings.folder.packs)):
            if number in in_use and number not in ends:
                continue
            with suppress(StoreError, FileNotFoundError):
                for name, location in scan(holdings.files, holdings.folder, number):
                    end = location.offset + location.length
                    if name in names and end <= ends.get(number, end):
                        found.setdefault(name, location)
        return found

    # ---- the journal

    def _compare_journal(self, is_repair: bool) -> None:
        """Have the journal say what the index says."""
        index = self._holdings.index
        with self._journal.keeping:
            told = self._journal.told()
            lines: list[tuple[str, Entry]] = []
            rows = {(release.manifest, release.name): release for release in index.releases()}
            for key, release in rows.items():
                if told.releases.get(key) != release:
                    lines.append((f"that the release {key[0].hex()} is kept", kept(release)))
            for manifest, name in told.releases.keys() - rows.keys():
                lines.append(
                    (f"that the release {manifest.hex()} is let go", let_go(manifest, name))
                )
            for digest, (path, stamp) in index.files("adopted").items():
                object = self._holdings.objects.named(digest)
                if object is None or path is None or stamp is None:
                    continue
                entry = adopted(object.row, path, stamp)
                if told.adopted.get(digest.hex()) != entry:
                    lines.append((f"that {path} is used where it lies", entry))
            for digest, (path, _) in index.files("part").items():
                if path is not None and told.parts.get(path) != digest.hex():
                    lines.append((f"that {path} is a part", part(digest, path)))
            if is_repair:
                self._journal.append([entry for _, entry in lines])
        for what, _ in lines:
            self._tell(f"the journal does not say {what}", is_repaired=is_repair)


def _is_gone(path: Path) -> bool:
    """Whether no file is there. A disk that does not say is no reason to believe so."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
