"""What kept names lead to: the mark of mark and sweep.

A root is a manifest, an object record or a single chunk. From a manifest the marks go over its file
pages to the files' objects, and from those to their segments; chunks of segments lie in the
objects' own files and need no mark. Documents that a fetch has not brought yet are no fault; a
release whose file list can't be read is one, since nobody could say what must stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from p2phub.digest import Digest
from p2phub.errors import ContentError, CorruptChunk, NotHeld, StoreError
from p2phub.proto.content import ObjectRecord
from p2phub.proto.content_id import content_id_text
from p2phub.proto.manifest import FilePage, Manifest, document_kind

Get = Callable[[Digest], bytes]  # raises NotHeld, CorruptChunk
Segments = Callable[[Digest], Sequence[Digest] | None]  # of an object that is known; None: it isn't


class Marks:
    """Names that stay: 100 bytes of memory each, at most two for each file that is kept."""

    def __init__(self, get: Get, segments: Segments) -> None:
        self._get = get
        self._segments = segments
        self._names: set[Digest] = set()
        self.roots: set[Digest] = set()

    def __contains__(self, name: Digest) -> bool:
        return name in self._names

    def add_name(self, name: Digest) -> None:
        """Mark this and nothing it leads to."""
        self._names.add(name)

    def add_root(self, root: Digest, *, is_release: bool) -> None:
        """Mark all that `root` names.

        is_release: its file list must be here, whole. Raises CorruptChunk where it is not.
        """
        if root in self.roots and not is_release:
            return
        self._names.add(root)
        try:
            self._follow(root)
        except (NotHeld, CorruptChunk, ContentError) as error:
            if is_release:
                raise CorruptChunk(
                    f"the file list of {content_id_text(root)}, which is kept, can't be read:"
                    " nothing was collected. Verify it with repair, or remove that release",
                    release=content_id_text(root),
                ) from error
        self.roots.add(root)

    def add_object(self, name: Digest) -> None:
        """Mark an object and its segments."""
        self._names.add(name)
        known = self._segments(name)
        if known is None:
            try:
                record = ObjectRecord.decode(self._get(name))
            except (StoreError, ContentError):
                return  # not fetched: nothing of it is held
            known = [segment.digest for segment in record.segments]
        self._names.update(known)

    def _follow(self, root: Digest) -> None:
        if self._segments(root) is not None:
            return self.add_object(root)
        data = self._get(root)
        match document_kind(data):
            case "manifest":
                for page in Manifest.decode(data).pages:
                    self._names.add(page.digest)
                    for file in FilePage.decode(self._get(page.digest)).files:
                        if file.has_record:
                            self.add_object(file.object)
                        elif file.chunk_count:
                            self._names.add(file.object)
            case "object":
                self.add_object(root)
            case _:
                pass
