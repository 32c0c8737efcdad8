"""What no collection may take, beside what the index says is kept: what is read, fetched or taken
right now, in this process. Nothing of it outlives the process; a lease does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import RLock

from p2phub.digest import Digest


class Keeping:
    """The names in use. Whoever decides by them holds `lock` until the deed is done."""

    def __init__(self) -> None:
        self.lock = RLock()
        self._roots: Counter[Digest] = Counter()
        self._recorders: list[set[Digest]] = []

    @contextmanager
    def root(self, name: Digest) -> Iterator[None]:
        """While the block runs, all that `name` names is in use."""
        with self.lock:
            self._roots[name] += 1
        try:
            yield
        finally:
            with self.lock:
                self._roots[name] -= 1
                if not self._roots[name]:
                    del self._roots[name]

    @contextmanager
    def recording(self) -> Iterator[None]:
        """While the block runs, every name that is noted is in use."""
        recorder: set[Digest] = set()
        with self.lock:
            self._recorders.append(recorder)
        try:
            yield
        finally:
            with self.lock:
                # By identity: two recorders may hold equal sets.
                self._recorders = [other for other in self._recorders if other is not recorder]

    def note(self, names: Iterable[Digest]) -> None:
        """Somebody puts or takes these. To be called before looking whether they are held."""
        if not self._recorders:
            return
        found = list(names)
        with self.lock:
            for recorder in self._recorders:
                recorder.update(found)

    def roots(self) -> set[Digest]:
        with self.lock:
            return set(self._roots)

    def is_noted(self, name: Digest) -> bool:
        """With `lock` held."""
        return any(name in recorder for recorder in self._recorders)
