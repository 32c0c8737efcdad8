"""The life of a node's disk: publish, fetch, export, collect, refresh trust, over and over, each
time with other files; now and then the disk damages something, which is found and fetched again.
And what must hold whenever it ends.

Every promise is told the moment it is made: by what was told, another process judges what is left.
"""

from __future__ import annotations

import os
import random
import time
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from p2phub.digest import Digest, digest
from p2phub.errors import CorruptChunk, NotHeld
from p2phub.proto.content import ObjectRecord
from p2phub.proto.manifest import FilePage, Manifest
from p2phub.proto.messages import Run
from p2phub.store.base import ObjectState, Place, Release
from p2phub.store.disk import DiskStore
from p2phub.store.file_system import FileSystem
from p2phub.trust.floor import Floor
from p2phub.trust.follower import Follower
from tests.store.sample_files import SampleFile, manifest_of, read_all, runs_of_bits, sample
from tests.trust.builders import NOW

Tell = Callable[[str, int], None]
Files = Mapping[str, bytes]  # signed metadata by name
MEND_EVERY = 3  # lives: reading all again makes many calls, and others are to be met too
MANY = 40  # small files of one release
IDLE_S = 7200.0  # later than now: parts that nobody keeps are collected too


class Unwritable(Exception):
    """The user could not write a file of theirs: the disk is gone."""


@dataclass(frozen=True)
class Generation:
    """What one round of the life is about."""

    number: int

    def _sample(self, kind: int, low: int, high: int, chunk: int) -> SampleFile:
        seed = self.number * 16 + kind
        return sample(random.Random(seed).randrange(low, high), chunk=chunk, seed=seed)

    @cached_property
    def big(self) -> SampleFile:
        return self._sample(1, 60_000, 400_000, 7000)

    @cached_property
    def small(self) -> SampleFile:
        return self._sample(2, 1, 900, 1000)

    @cached_property
    def placed(self) -> SampleFile:
        return self._sample(3, 20_000, 90_000, 3000)

    @cached_property
    def own(self) -> SampleFile:
        return self._sample(4, 20_000, 200_000, 5000)

    @cached_property
    def own_small(self) -> SampleFile:
        return self._sample(5, 1, 5000, 6000)

    @cached_property
    def fetched_release(self) -> tuple[Manifest, FilePage]:
        return manifest_of({"big": self.big, "small": self.small, "sub/placed": self.placed})

    @cached_property
    def own_release(self) -> tuple[Manifest, FilePage]:
        return manifest_of({"own": self.own, "own small": self.own_small})

    @cached_property
    def many(self) -> list[SampleFile]:
        """Enough small files to be laid out while they arrive."""
        rng = random.Random(self.number * 16 + 6)
        return [
            sample(rng.randrange(1, 400), seed=self.number * MANY + index) for index in range(MANY)
        ]

    @cached_property
    def many_release(self) -> tuple[Manifest, FilePage]:
        return manifest_of({f"deep/{index:02}": file for index, file in enumerate(self.many)})

    @property
    def files(self) -> list[SampleFile]:
        return [self.big, self.small, self.placed, self.own, self.own_small]

    def names(self) -> list[Digest]:
        """All that may lie in packs."""
        found = [document for file in self.files for document in file.documents]
        for manifest, page in (self.fetched_release, self.own_release):
            found += [manifest.encode(), page.encode()]
        singles = [self.small, self.own_small, *self.many]
        return [digest(some) for some in found] + [file.object for file in singles]


@dataclass
class Home:
    """The store, the trust floor and a followed publisher below one folder."""

    root: Path
    publisher_id: str
    files: FileSystem = field(default_factory=FileSystem)

    def __post_init__(self) -> None:
        self.store = DiskStore(self.root / "store", files=self.files)
        self.floor = Floor(self.root / "trust" / "floor.db")
        self.offered: Files = {}
        self.follower = Follower(
            self.publisher_id, self.root / "trust" / self.publisher_id, self.floor, self._fetch
        )

    def close(self) -> None:
        try:
            self.store.close()
        finally:
            self.floor.close()

    def _fetch(self, file_name: str, bytes_max: int) -> list[bytes]:
        data = self.offered.get(file_name)
        return [] if data is None else [data]


class Life:
    """One generation lived in a home. `tell(what, number)` is called with each promise."""

    def __init__(self, home: Home, generation: Generation, tell: Tell) -> None:
        self._home = home
        self._store = home.store
        self._generation = generation
        self._tell = tell

    def live(self, versions: list[Files], old: list[int]) -> None:
        """versions: the publisher's files, oldest first. old: generations that are still kept."""
        number = self._generation.number
        steps: list[Callable[[], None]] = [
            self.fetch, self.publish, lambda: self.refresh(versions), lambda: self.let_go(old),
        ]  # fmt: skip
        if number % MEND_EVERY == 0:
            steps.append(lambda: self.mend(old))
        random.Random(number).shuffle(steps)
        self._tell("begin", number)
        for step in steps:
            step()

    def fetch(self) -> None:
        """A release comes chunk by chunk, is laid out twice and kept."""
        store, of = self._store, self._generation
        manifest, page = of.fetched_release
        with store.keeping(manifest.digest):
            store.put([manifest.encode(), page.encode()])
            self._tell("documents", of.number)
            store.put(of.big.documents)
            store.open_part(of.big.object)
            runs = of.big.runs()
            self._write(of.big, runs[:1])
            store.checkpoint()
            self._tell("bits", of.number)
            self._write(of.big, runs[1:])
            store.hash_ahead(of.big.object, 100_000)
            store.finish(of.big.object)
            self._tell("whole", of.number)
            writer = store.span_writer([Run(digest(page.encode()), 1, 2)])
            writer.write(0, 1, memoryview(of.small.data))
            store.checkpoint()
            self._tell("small", of.number)
            out = self._home.root / "out" / f"{of.number}"
            store.put(of.placed.documents)
            store.open_part(of.placed.object, folder=out)
            self._write(of.placed, of.placed.runs())
            store.finish(of.placed.object, place=Place(out, "sub/placed"))
            self._tell("placed", of.number)
            store.place_files(page.files, out)
            self._tell("out", of.number)
            tree = self._home.root / "releases" / f"{of.number}"
            store.materialize(page.files, tree)
            self._tell("tree", of.number)
            self._fetch_many(out / "many")
            store.add_release(
                Release(manifest.digest, f"fetched {of.number}", path=tree, added_s=of.number)
            )
        self._tell("fetched", of.number)
        if of.number % 3 == 0:
            store.pin(manifest.digest, True)
            self._tell("pinned", of.number)

    def _fetch_many(self, folder: Path) -> None:
        """Small files are laid out while they come."""
        store, of = self._store, self._generation
        page = of.many_release[1]
        [name] = store.put([page.encode()])
        layout = store.lay_out(page.files, folder)
        for start, stop in ((0, MANY // 2), (MANY // 2, MANY)):
            data = b"".join(file.data for file in of.many[start:stop])
            writer = store.span_writer([Run(name, start, stop)])
            writer.write(0, stop - start, memoryview(data))
            store.checkpoint()
            layout.advance(len(data) // 2)
        layout.place()
        self._tell("many", of.number)

    def publish(self) -> None:
        """Two files of the user's are taken and released."""
        store, of = self._store, self._generation
        manifest, page = of.own_release
        folder = self._home.root / "own" / f"{of.number}"
        try:
            folder.mkdir(parents=True)
            sources = [of.own.source(folder / "own"), of.own_small.source(folder / "own small")]
        except OSError as error:
            raise Unwritable from error
        with store.keeping():
            store.take(sources, [*of.own.documents, page.encode(), manifest.encode()])
            self._tell("taken", of.number)
            store.add_release(
                Release(manifest.digest, f"own {of.number}", origin="published", added_s=1.0)
            )
        self._tell("published", of.number)

    def refresh(self, versions: list[Files]) -> None:
        """The publisher has signed something new."""
        seen = self._home.floor.seen(self._home.publisher_id).get("timestamp")
        self._home.offered = versions[min(seen.version if seen else 0, len(versions) - 1)]
        view = self._home.follower.refresh(NOW)
        self._tell("trusted", view.timestamp_version)

    def let_go(self, old: list[int]) -> None:
        """The oldest release that was fetched goes, and what only it named."""
        if len(old) > 2:
            release = Generation(old[0]).fetched_release[0].digest
            self._tell("removing", old[0])
            self._store.remove_release(release)
            self._tell("removed", old[0])
        self._tell("collecting", self._generation.number)
        self._store.collect(time.time() + IDLE_S)
        if len(old) > 2:
            self._tell("collected", old[0])

    def mend(self, old: list[int]) -> None:
        """What the disk damages is found by fsck and scrub and fetched again; a file of the user's
        that was touched is read again.
        """
        store, kept = self._store, [n for n in old if self._is_release_kept(n)]
        if kept:
            self._tell("rotting", kept[-1])
            try:
                self._damage(Generation(kept[-1]))
            except OSError as error:
                raise Unwritable from error
        begun_s = time.time()
        store.recheck()
        store.check(is_repair=True)
        while not store.scrub(begun_s, time.time()).is_over:
            pass
        for _ in range(2):  # a round that was under way, and one from the start
            while not store.reread(10_000, time.time() + IDLE_S).is_over:
                pass
        store.withdrawn()
        for number in kept:
            big = Generation(number).big
            status = store.status(big.object)
            if status is None or status.state is not ObjectState.COMPLETE:
                store.put(big.documents)
                store.open_part(big.object)
                self._write(big, big.runs())
                store.finish(big.object)
            self._tell("mended", number)
        store.damaged()

    def _is_release_kept(self, number: int) -> bool:
        """Whether an old release was not let go in this very life."""
        digest = Generation(number).fetched_release[0].digest
        return digest in {release.manifest for release in self._store.releases()}

    def _damage(self, of: Generation) -> None:
        """A bad sector in a whole file, or all of it gone; and a touch of what is the user's."""
        name = of.big.object.hex()
        path = self._home.root / "store" / "data" / name[:2] / name
        if self._generation.number % 2:
            path.unlink(missing_ok=True)
        else:
            # A new file, since a tree may be a second name of the old one.
            data = bytearray(of.big.data)
            data[len(data) // 2] ^= 1
            rotten = path.with_name("rotten")
            rotten.write_bytes(data)
            rotten.replace(path)
        (self._home.root / "out" / f"{of.number}" / "sub" / "placed").chmod(0o600)

    def _write(self, file: SampleFile, runs: list[Run]) -> None:
        for run in runs:
            first = file.pages.index(run.page) * file.segment_chunks
            data = b"".join(file.chunks[first : first + run.stop])
            self._store.span_writer([run]).write(0, run.stop, memoryview(data))


class Promises:
    """What was told so far, and whether a home keeps it."""

    def __init__(self) -> None:
        self._facts: set[tuple[str, int]] = set()
        self.trusted = 0  # highest timestamp version
        self.begun: list[int] = []

    def told(self, what: str, number: int) -> None:
        match what:
            case "begin":
                self.begun.append(number)
            case "trusted":
                self.trusted = max(self.trusted, number)
            case "removing":
                for fact in ("documents", "bits", "whole", "small", "fetched", "rotten", "pinned"):
                    self._facts.discard((fact, number))
            case "rotting":
                for fact in ("bits", "whole", "fetched"):
                    self._facts.discard((fact, number))
                self._facts.add(("rotten", number))
            case "mended":
                self._facts.discard(("rotten", number))
                self._facts |= {(fact, number) for fact in ("bits", "whole", "fetched")}
            case "collecting":
                kept = set(self.kept())
                self._facts = {
                    (fact, of)
                    for fact, of in self._facts
                    if of in kept or fact not in ("documents", "bits", "whole", "small")
                }
            case _:
                self._facts.add((what, number))

    def kept(self) -> list[int]:
        """Generations whose fetched release is kept, oldest first."""
        return sorted(number for what, number in self._facts if what in ("fetched", "rotten"))

    def _rotten(self) -> set[Digest]:
        """What the disk damaged, or the user touched, and nobody has mended yet."""
        generations = [Generation(of) for what, of in self._facts if what == "rotten"]
        return {file.object for of in generations for file in (of.big, of.placed)}

    def check(self, home: Home) -> list[str]:
        """What is wrong with a home; nothing, after every cut."""
        faults = []
        for what, number in sorted(self._facts):
            try:
                if not _is_kept(home, what, Generation(number)):
                    faults.append(f"lost: {what} {number}")
            except Exception as error:  # whatever it is, the promise is broken
                faults.append(f"lost: {what} {number}: {error!r}")
        faults += self._false_chunks(home)
        faults += self._false_files(home)
        home.store.recheck()
        lost = [one for one in home.store.withdrawn() if one.object not in self._rotten()]
        faults += [f"withdrawn: {one.reason}" for one in lost]
        faults += self._lowered(home)
        return faults

    def _false_chunks(self, home: Home) -> list[str]:
        """Everything that `held` and `has` say, read and verified."""
        store, faults = home.store, []
        for number in self.begun:
            for name in Generation(number).names():
                if store.has(name):
                    try:
                        store.get(name)
                    except Exception as error:
                        faults.append(f"false: chunk of generation {number}: {error!r}")
        rotten = self._rotten()
        for status in store.objects():
            try:
                segments = ObjectRecord.decode(store.get(status.object)).segments
            except NotHeld:
                segments = ()
            for segment in segments:
                for index in runs_of_bits(store.held(segment.digest) or b"", segment.chunk_count):
                    try:
                        reader = store.span_reader([Run(segment.digest, index, index + 1)])
                        reader.read(0, 1, memoryview(bytearray(sum(reader.lengths))))
                    except Exception as error:
                        is_found = isinstance(error, (CorruptChunk, NotHeld))
                        if not is_found or status.object not in rotten:
                            faults.append(f"false: bit {index}: {error!r}")
        return faults

    def _false_files(self, home: Home) -> list[str]:
        """Everything that people see of what was laid out while it came."""
        faults = []
        for number in self.begun:
            for index, file in enumerate(Generation(number).many):
                path = home.root / "out" / f"{number}" / "many" / "deep" / f"{index:02}"
                if path.exists() and path.read_bytes() != file.data:
                    faults.append(f"false: {path}")
        return faults

    def _lowered(self, home: Home) -> list[str]:
        if not self.trusted:
            return []
        try:
            seen = home.floor.seen(home.publisher_id)["timestamp"].version
            known = home.follower.known(NOW).timestamp_version
        except Exception as error:
            return [f"trust lost: {error!r}"]
        if seen < self.trusted or known < self.trusted:
            return [f"trust lowered from {self.trusted} to {seen}, {known} known"]
        return []


def _is_kept(home: Home, what: str, of: Generation) -> bool:
    store, root = home.store, home.root
    fetched, own = of.fetched_release[0].digest, of.own_release[0].digest
    releases = {release.manifest: release for release in store.releases()}
    out, tree = root / "out" / f"{of.number}", root / "releases" / f"{of.number}"
    match what:
        case "documents":
            return all(store.get(digest(some.encode())) for some in of.fetched_release)
        case "bits":
            return store.missing(of.big.pages[0]) == array("I")
        case "whole":
            status = store.status(of.big.object)
            is_complete = status is not None and status.state is ObjectState.COMPLETE
            return is_complete and read_all(store, of.big) == of.big.data
        case "small":
            return store.get(of.small.object) == of.small.data
        case "placed":
            return (out / "sub" / "placed").read_bytes() == of.placed.data
        case "many":
            folder = out / "many" / "deep"
            return all(
                (folder / f"{index:02}").read_bytes() == file.data
                for index, file in enumerate(of.many)
            )
        case "out" | "tree":
            folder = out if what == "out" else tree
            return all(
                (folder / path).read_bytes() == file.data
                for path, file in (
                    ("big", of.big), ("small", of.small), ("sub/placed", of.placed),
                )
            )  # fmt: skip
        case "fetched":
            files_there = read_all(store, of.big) == of.big.data
            files_there &= read_all(store, of.placed) == of.placed.data
            return files_there and fetched in releases and _is_kept(home, "small", of)
        case "rotten":  # what is left of `fetched`, and the user's own copy
            return fetched in releases and _is_kept(home, "small", of)
        case "pinned":
            return releases[fetched].is_pinned
        case "taken":
            folder = root / "own" / f"{of.number}"
            files = ((folder / "own", of.own), (folder / "own small", of.own_small))
            return all(path.read_bytes() == file.data for path, file in files)
        case "published":
            is_whole = read_all(store, of.own) == of.own.data
            return (
                is_whole
                and store.get(of.own_small.object) == of.own_small.data
                and (own in releases)
            )
        case "removed":
            return fetched not in releases
        case "collected":
            return store.status(of.big.object) is None and not os.path.exists(
                root / "store" / "data" / of.big.object.hex()[:2] / of.big.object.hex()
            )
        case _:
            return True
