"""A file system whose power can be cut at any call: what was not synced is lost, in any
combination.

Bytes written since a file's last sync may each be there or not; names made, changed or removed
since their folder's last sync are undone from the newest back, as far as the dice say. Calls after
the cut fail, so that a store can only be let go of. SQLite's own files are not simulated: a commit
that returned is there, one that did not is not.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from p2phub.store.file_system import AnyPath, FileSystem


class PowerCut(BaseException):
    """The lights are out. Not an Exception, so that nothing in between may handle it."""


class FragileFileSystem(FileSystem):
    """Counts calls and cuts the power before call number `cut_at`; 0 never does."""

    def __init__(self, trash: Path, *, cut_at: int = 0, syncs: bool = True) -> None:
        self.calls = 0
        self.cut_at = cut_at
        self.is_dead = False
        self._syncs = syncs  # False: the negative control, a disk whose syncs do nothing
        self._trash = trash
        self._writes: dict[tuple[int, int], list[tuple[int, bytes, int]]] = {}
        self._files: dict[tuple[int, int], int] = {}  # descriptors of ours to undo writes with
        self._names: list[tuple[Path, Callable[[], None]]] = []  # folder, undo
        trash.mkdir(exist_ok=True)

    def reach(self, call: str, path: AnyPath) -> None:
        if self.is_dead:
            raise PowerCut
        self.calls += 1
        if self.calls == self.cut_at:
            self.is_dead = True
            raise PowerCut

    def lose_unsynced(self, rng: random.Random) -> None:
        """What a remount finds: some of what was not synced is gone."""
        for identity, writes in self._writes.items():
            file = self._files[identity]
            for offset, before, size in reversed(writes):
                if rng.random() < 0.7:
                    os.pwrite(file, before, offset)
                    if os.fstat(file).st_size > size and rng.random() < 0.7:
                        os.ftruncate(file, size)
        for _, undo in reversed(self._names[rng.randrange(len(self._names) + 1) :]):
            undo()
        self.close_all()

    def close_all(self) -> None:
        for file in self._files.values():
            os.close(file)
        self._files, self._writes, self._names = {}, {}, []

    # ---- what changes bytes

    def write(
        self, file: int, data: Sequence[memoryview | bytes], offset: int, path: AnyPath
    ) -> int:
        if not self.is_dead:
            self._note(file, sum(map(len, data)), offset)
        return super().write(file, data, offset, path)

    def truncate(self, file: int, size: int, path: AnyPath) -> None:
        if not self.is_dead:
            self._note(file, max(0, os.fstat(file).st_size - size), size)
        super().truncate(file, size, path)

    def sync_data(self, file: int, path: AnyPath) -> None:
        super().sync_data(file, path)
        self._synced(file)

    def sync(self, file: int, path: AnyPath) -> None:
        super().sync(file, path)
        self._synced(file)

    def sync_file_system(self, file: int, path: AnyPath) -> None:
        super().sync_file_system(file, path)
        if self._syncs:
            self._writes.clear()
            self._names.clear()

    # ---- what changes names

    def open(
        self, path: AnyPath, flags: int, mode: int = 0o644, *, folder: int | None = None
    ) -> int:
        where = self._where(path, folder)
        is_new = bool(flags & os.O_CREAT) and not os.path.lexists(where)
        file = super().open(path, flags, mode, folder=folder)
        if is_new:
            self._names.append((where.parent, lambda: where.unlink(missing_ok=True)))
        return file

    def rename(self, source: AnyPath, target: AnyPath) -> None:
        old, new = Path(source), Path(target)
        kept = self._keep(new) if new.exists() else None
        super().rename(source, target)

        def undo() -> None:
            if new.exists():
                new.rename(old)
            if kept is not None:
                kept.rename(new)

        self._names.append((new.parent, undo))

    def rename_new(
        self,
        source: AnyPath,
        target: AnyPath,
        *,
        source_folder: int = -100,
        target_folder: int = -100,
    ) -> None:
        old = self._where(source, None if source_folder == -100 else source_folder)
        new = self._where(target, None if target_folder == -100 else target_folder)
        super().rename_new(source, target, source_folder=source_folder, target_folder=target_folder)

        def undo() -> None:
            if new.exists() and old.parent.is_dir():
                new.rename(old)

        self._names.append((new.parent, undo))

    def remove(self, path: AnyPath) -> None:
        where = Path(path)
        kept = self._keep(where) if where.exists() and not self.is_dead else None
        super().remove(path)
        if kept is not None:

            def undo() -> None:
                if where.parent.is_dir():
                    kept.rename(where)

            self._names.append((where.parent, undo))

    def sync_folder(self, path: AnyPath) -> None:
        super().sync_folder(path)
        if self._syncs:
            self._names = [entry for entry in self._names if entry[0] != Path(path)]

    # ---- within

    def _note(self, file: int, size: int, offset: int) -> None:
        status = os.fstat(file)
        identity = status.st_dev, status.st_ino
        if identity not in self._files:
            self._files[identity] = os.open(f"/proc/self/fd/{file}", os.O_RDWR)
        before = os.pread(self._files[identity], size, offset)
        self._writes.setdefault(identity, []).append((offset, before, status.st_size))

    def _synced(self, file: int) -> None:
        status = os.fstat(file)
        if self._syncs:
            self._writes.pop((status.st_dev, status.st_ino), None)

    def _keep(self, path: Path) -> Path:
        kept = self._trash / f"{len(self._names)}-{self.calls}"
        os.link(path, kept)
        return kept

    def _where(self, path: AnyPath, folder: int | None) -> Path:
        if folder is None:
            return Path(path)
        return Path(os.readlink(f"/proc/self/fd/{folder}")) / path
