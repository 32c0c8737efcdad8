"""What is held and where: index, packs, pages and objects of one store, and reading from them.

A read gives bytes that the caller verifies, or says that they are gone. What turns out to be gone
or wrong is cleared here, in memory and in the index, and noted as withdrawn, so that the node can
tell people and peers.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from stat import S_ISREG
from threading import Lock, RLock

from p2phub.digest import EMPTY, Digest, digest
from p2phub.errors import CorruptChunk, MalformedDocument, NotHeld, StoreError, StoreFailed
from p2phub.paths import StoreFolder
from p2phub.store.base import ObjectState, Withdrawn
from p2phub.store.file_system import AnyPath, FileSystem, failures
from p2phub.store.index import Index
from p2phub.store.keeping import Keeping
from p2phub.store.object_table import ObjectTable
from p2phub.store.objects import StoredObject, file_keys
from p2phub.store.open_files import OpenFiles
from p2phub.store.packs import Location, Packs
from p2phub.store.pages import Page, Pages
from p2phub.store.quarantine import Quarantine
from p2phub.store.rows import ObjectRow, SegmentRow, sample_key
from p2phub.store.stamps import TOUCHED, FileStamp, difference

WITHDRAWN_MAX = 10_000  # not yet told; beyond it the oldest are dropped: the index has them
_REPLACED = (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EACCES, errno.EPERM, errno.EISDIR)


class Holdings:
    """Everything one store holds."""

    def __init__(self, folder: StoreFolder, files: FileSystem, index: Index, packs: Packs) -> None:
        self.folder = folder
        self.files = files
        self.index = index
        self.packs = packs
        self.pages = Pages(self.get)
        self.objects = ObjectTable(index)
        self._open: OpenFiles[int] = OpenFiles(files.close)
        self._withdrawn: deque[Withdrawn] = deque(maxlen=WITHDRAWN_MAX)
        self._withdrawn_lock = Lock()
        self.quarantine = Quarantine(folder, files)
        self.keeping = Keeping()
        # Held while whole files are unlinked, and by whoever brings one to the same place.
        self.sweeping = RLock()

    # ---- single chunks

    def get(self, name: Digest) -> bytes:
        """One chunk, verified now. Raises NotHeld, CorruptChunk."""
        if name == EMPTY:
            return b""
        is_corrupt = False
        location = self.packs.pending(name) or self.index.locate(name)
        if location is not None:
            try:
                data = self.packed(name, location)
                if data is not None:
                    return data
                is_corrupt = True
            except NotHeld:
                pass
        for object, segment, index in self._outside_packs(name):
            try:
                data = self._from_object(name, object, segment, index)
            except NotHeld:
                continue
            if data is not None:
                return data
            is_corrupt = True
        if is_corrupt:
            raise CorruptChunk(
                f"the chunk {name.hex()} lay on this disk damaged", digest=name.hex()
            )
        raise NotHeld(f"this node does not hold the chunk {name.hex()}", digest=name.hex())

    def has(self, names: Sequence[Digest], *, is_durable: bool) -> set[Digest]:
        """Which of `names` `get` would find. is_durable: leave out what a crash could still take
        back.
        """
        found = {EMPTY} & set(names)
        found |= self.index.in_packs(names)
        if not is_durable:
            found.update(name for name in names if self.packs.pending(name))
        left = [name for name in names if name not in found]
        found |= self.index.single_objects(left)
        left = [name for name in left if name not in found]
        samples = self.index.samples(left) if left else {}
        for name in left:
            if self._sampled(name, samples.get(sample_key(name), ())) is not None:
                found.add(name)
        return found

    # ---- objects

    def dropped(self, object: StoredObject) -> None:
        """The index has this object no more."""
        self.objects.dropped(object)
        self._open.drop(object.file_key)

    def segment_page(self, segment: SegmentRow) -> Page:
        """The page of an object's segment.

        Raises NotHeld, or MalformedDocument if the record is wrong about it.
        """
        page = self.pages.get(segment.digest)
        check_segment(page, segment)
        return page

    # ---- reading

    def read(self, object: StoredObject, offset: int, into: memoryview) -> int:
        """Bytes of an object's file, unverified; fewer than asked for if the file ends.

        Raises NotHeld if the file is gone or, being the user's, is not as it was; StoreFailed.
        """
        row = object.row
        if row.state is ObjectState.CHANGED:
            raise NotHeld(f"the file that held {row.digest.hex()} was changed")
        path, reason = self.path(object), ""
        try:
            with self._open.use(object.file_key, lambda: self._open_file(row)) as file:
                is_whole = row.kind != "part"
                if is_whole and (reason := self._change(object, row, file, path)):
                    got = 0
                else:
                    got = self.files.read(file, into, offset, path)
                    if is_whole:
                        reason = self._change(object, row, file, path)
        except FileNotFoundError:
            if object.row != row:
                return self.read(object, offset, into)
            self.check_mounted(path if row.kind == "part" else None)
            reason = "was removed"
        except StoreFailed as error:
            self._open.drop(object.file_key)  # the disk may come back as another one
            if row.kind != "adopted" or error.facts.get("errno") not in _REPLACED:
                raise
            reason = "was replaced or can't be read any more"
        if reason:
            self.withdraw(object, reason)
            raise NotHeld(f"{path} {reason}: what it held is not held any more", path=str(path))
        return got

    def path(self, object: StoredObject) -> Path:
        """Where an object's file lies."""
        return self._path(object.row)

    def replaced(self, object: StoredObject) -> None:
        """Another file took the place of an object's file: read from that one from now on."""
        old, object.file_key = object.file_key, next(file_keys)
        self._open.drop(old)

    def _open_file(self, row: ObjectRow) -> int:
        try:
            return self.files.open(self._path(row), os.O_RDONLY)
        except FileNotFoundError:
            if row.kind != "part":
                raise
            # It is being finished, and was renamed in this very moment.
            return self.files.open(row.target or self.folder.whole(row.digest), os.O_RDONLY)

    def _change(self, object: StoredObject, row: ObjectRow, file: int, path: Path) -> str:
        """As `_difference`, but for what we do to the file ourselves."""
        reason = self._difference(file, path, row.stamp)
        is_by_us = bool(object.namings) or object.row is not row
        return "" if reason == TOUCHED and is_by_us else reason

    def _difference(self, file: int, path: AnyPath, stamp: FileStamp | None) -> str:
        """What is different about an open file of the user's; "" if nothing is."""
        status = self.files.status(file, path)
        if not S_ISREG(status.st_mode) or status.st_nlink == 0:
            return "was removed or replaced"
        return "" if stamp is None else difference(FileStamp.of(status), stamp)

    def _path(self, row: ObjectRow) -> Path:
        if row.path is not None:
            return row.path
        return self.folder.part(row.digest) if row.kind == "part" else self.folder.whole(row.digest)

    # ---- what is not held any more

    def check_mounted(self, part: Path | None = None) -> None:
        """Raises StoreFailed where all of the store is away, or the folder that `part` lies in, not
        one file: nothing was lost then, and nothing may be written down as lost.
        """
        with failures(self.folder.version):
            os.lstat(self.folder.version)
        if part is not None:
            with failures(part.parent):
                os.lstat(part.parent)

    def withdraw(self, object: StoredObject, reason: str, *, is_damage: bool = False) -> None:
        """The file of an object is not what it was: nothing of it is held from now on.

        is_damage: by the disk. A file of the store's own is nobody else's to change or remove.
        """
        is_damage = is_damage or object.row.kind == "data"
        with object.lock:
            if object.row.state is ObjectState.CHANGED:
                return
            object.row = replace(object.row, state=ObjectState.CHANGED)
            object.written, object.durable, object.pending = {}, {}, {}
        self._open.drop(object.file_key)
        pages = tuple((segment.digest, ()) for segment in object.segments)
        self._note(object, reason, pages or ((object.row.digest, ()),), is_damage)
        with self.index.transaction() as change:
            if is_damage:
                change.note_damaged([object.row.digest])
            change.change_object(object.row)
            change.drop_bits(object.row.id)
            change.drop_samples(object.row.id)

    def damaged(
        self, object: StoredObject, segment: SegmentRow | None, index: int, data: memoryview | bytes
    ) -> None:
        """One chunk of an object is not what it was: clear it, and set the wrong bytes aside."""
        if segment is None:
            self.withdraw(object, "is damaged", is_damage=True)
            return
        with object.lock:
            object.clear_chunk(segment, index)
            object.row = replace(object.row, state=ObjectState.PARTIAL)
            rows = [(number, bytes(some)) for number, some in object.durable.items()]
        self._note(object, "is damaged", ((segment.digest, (index,)),), True)
        self.quarantine.keep(object.row.digest, segment.first_chunk + index, data)
        with self.index.transaction() as change:
            change.note_damaged([object.row.digest])
            change.change_object(object.row)
            change.put_bits(object.row.id, rows)

    def withdrawn(self) -> list[Withdrawn]:
        with self._withdrawn_lock:
            found = list(self._withdrawn)
            self._withdrawn.clear()
        return found

    def still_damaged(self) -> list[Digest]:
        """See `Store.damaged`."""
        names = self.index.damaged()
        held = self.has(names, is_durable=True) if names else set()
        objects = {name: self.objects.named(name) for name in held}
        whole = {name for name, object in objects.items() if object is None or object.is_whole}
        if whole:
            with self.index.transaction() as change:
                change.forget_damaged(whole)
        return [name for name in names if name not in whole]

    def close(self) -> None:
        self._open.close()

    # ---- within

    def packed(self, name: Digest, location: Location) -> bytes | None:
        """A chunk in a pack; None if it was damaged, and is cleared now.

        Raises NotHeld if it was collected meanwhile.
        """
        data = bytearray(location.length)
        try:
            got = self.packs.read(location, memoryview(data))
        except FileNotFoundError:
            self.check_mounted()
            got = 0
        if got == location.length and digest(data) == name:
            return bytes(data)
        now = self.index.locate(name)
        if now is None:
            raise NotHeld(f"this node does not hold the chunk {name.hex()}", digest=name.hex())
        if now != location:
            return self.packed(name, now)  # its pack was written anew meanwhile
        with self.index.transaction() as change:
            change.drop_chunks([name])
            change.note_damaged([name])
        self.pages.drop(name)
        path = self.folder.pack(location.pack)
        with self._withdrawn_lock:
            self._withdrawn.append(
                Withdrawn(name, path, f"{path} is damaged", ((name, ()),), is_damage=True)
            )
        self.quarantine.keep(name, 0, bytes(data))
        return None

    def _from_object(
        self, name: Digest, object: StoredObject, segment: SegmentRow | None, index: int
    ) -> bytes | None:
        if segment is None:
            offset, size = 0, object.row.size
        else:
            page = self.segment_page(segment)
            offset, size = segment.offset + page.offsets[index], page.lengths[index]
        data = bytearray(size)
        if self.read(object, offset, memoryview(data)) == size and digest(data) == name:
            return bytes(data)
        self.damaged(object, segment, index, bytes(data))
        return None

    def _outside_packs(self, name: Digest) -> list[tuple[StoredObject, SegmentRow | None, int]]:
        single = self.objects.named(name)
        if single is not None and single.row.chunk_count == 1 and single.is_whole:
            return [(single, None, 0)]
        found = self._sampled(name, self.index.samples([name]).get(sample_key(name), ()))
        return [found] if found else []

    def _sampled(
        self, name: Digest, candidates: Sequence[tuple[int, int]]
    ) -> tuple[StoredObject, SegmentRow, int] | None:
        """The first of the chunk index's `candidates` that is this very chunk and held."""
        for id, chunk in candidates:
            object = self.objects.get(id)
            if object is None or not object.segments:
                continue
            segment = object.segment_of(chunk)
            index = chunk - segment.first_chunk
            try:
                if object.holds(segment.number, index, index + 1) and (
                    self.segment_page(segment).digest_of(index) == name
                ):
                    return object, segment, index
            except (StoreError, MalformedDocument):
                continue
        return None

    def _note(
        self,
        object: StoredObject,
        reason: str,
        pages: tuple[tuple[Digest, tuple[int, ...]], ...],
        is_damage: bool,
    ) -> None:
        path = self.path(object)
        with self._withdrawn_lock:
            self._withdrawn.append(
                Withdrawn(
                    object.row.digest, path, f"{path} {reason}", pages, is_damage, reason == TOUCHED
                )
            )


def check_segment(page: Page, segment: SegmentRow) -> None:
    """Raises MalformedDocument if an object record says of a segment what is not so."""
    if (
        not page.is_segment
        or len(page) != segment.chunk_count
        or page.offsets[-1] != segment.data_size
    ):
        raise MalformedDocument("a segment is not what its object says of it")
