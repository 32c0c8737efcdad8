"""python-tuf's client on our disk, clock and peers: the one place that knows its private names.

Four things are reached that tuf does not offer: how it writes a file (it does not fsync, and a
power cut was seen to make it accept a rollback), what time it takes for now, the roles it has
verified, and loading one role by name. tests/trust/test_updater.py pins them, and the constructor
refuses a tuf in which they moved.

Source: tuf 7.0.1, ngclient/updater.py and _internal/trusted_metadata_set.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from tuf.api import exceptions
from tuf.api.metadata import Root, Snapshot, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from p2phub.durable import failure, make_folder, write_durably
from p2phub.errors import (
    MetadataExpired,
    MetadataIncomplete,
    P2phubError,
    RollbackRefused,
    TamperedMetadata,
    WrongSigner,
)
from p2phub.paths import StateFolder
from p2phub.proto.limits import (
    DELEGATIONS_VISITED_MAX,
    ROOT_BYTES_MAX,
    ROOT_ROTATIONS_MAX,
    SNAPSHOT_BYTES_MAX,
    TARGETS_BYTES_MAX,
    TIMESTAMP_BYTES_MAX,
)

_BASE: Final = "peers:/"  # never dialled: the fetcher takes the file name off its end
_CONFIG: Final = UpdaterConfig(
    max_root_rotations=ROOT_ROTATIONS_MAX,
    max_delegations=DELEGATIONS_VISITED_MAX,
    root_max_length=ROOT_BYTES_MAX,
    timestamp_max_length=TIMESTAMP_BYTES_MAX,
    snapshot_max_length=SNAPSHOT_BYTES_MAX,
    targets_max_length=TARGETS_BYTES_MAX,
)


class LookupFetcher(FetcherInterface):
    """tuf's view of the network: from file name to bytes, None where there is no such file."""

    def __init__(self, look_up: Callable[[str], bytes | None]) -> None:
        self._look_up = look_up

    def _fetch(self, url: str) -> Iterator[bytes]:
        data = self._look_up(url.removeprefix(_BASE))
        if data is None:
            raise exceptions.DownloadHTTPError("no such file", 404)
        return iter((data,))


class DurableUpdater(Updater):
    """An Updater whose files survive a power cut, and that is told the time."""

    def __init__(
        self,
        folder: Path,
        look_up: Callable[[str], bytes | None],
        first_root: bytes,
        reference_time: datetime,
    ) -> None:
        make_folder(StateFolder(folder).roots)
        self._writes = 0
        super().__init__(
            str(folder),
            _BASE,
            fetcher=LookupFetcher(look_up),
            config=_CONFIG,
            bootstrap=first_root,
        )
        if self._writes == 0 or not hasattr(self._trusted_set, "reference_time"):
            raise AssertionError("this tuf keeps its files or its time in another way")
        self._trusted_set.reference_time = reference_time

    @property
    def root(self) -> Root:
        """The verified root in force."""
        return self._trusted_set.root

    @property
    def timestamp(self) -> Timestamp:
        """The verified timestamp."""
        return self._trusted_set.timestamp

    @property
    def snapshot(self) -> Snapshot:
        """The verified snapshot."""
        return self._trusted_set.snapshot

    @property
    def targets(self) -> Targets:
        """The verified top-level targets."""
        return self._trusted_set.targets

    def load_name(self, name: str) -> bool:
        """Verify the role that signs for `name`; False if there is none."""
        # tuf's public walk matches the path against every role in turn: 2 s for 16,000 names. Our
        # profile has one role per name, delegated by the top alone, so the walk's one step is taken
        # directly.
        delegations = self.targets.delegations
        if delegations is None or not delegations.roles or name not in delegations.roles:
            return False
        self._load_targets(name, Targets.type)
        return True

    def _persist_file(self, filename: str, data: bytes) -> None:
        self._writes += 1
        path = Path(filename)
        # The first root is given anew at each start; only what differs costs a sync.
        with contextlib.suppress(FileNotFoundError):
            if path.read_bytes() == data:
                return
        write_durably(path, data)


@contextlib.contextmanager
def tuf_errors() -> Iterator[None]:
    """tuf's exceptions and the disk's end here and leave as ours; ours, raised in a look-up, pass
    unchanged.
    """
    try:
        yield
    except exceptions.UnsignedMetadataError as error:
        raise WrongSigner(str(error)) from error
    except exceptions.ExpiredMetadataError as error:
        raise MetadataExpired(f"the publisher's last signed word has expired: {error}") from error
    except exceptions.BadVersionNumberError as error:
        raise RollbackRefused(f"the versions do not go up as they must: {error}") from error
    except exceptions.RepositoryError as error:
        raise TamperedMetadata(f"the signed files do not belong together: {error}") from error
    except exceptions.DownloadError as error:
        if isinstance(error.__cause__, P2phubError):
            raise error.__cause__ from None
        raise MetadataIncomplete(f"a signed file could not be had: {error}") from error
    except OSError as error:
        raise failure(error, error.filename or "the folder of trust") from error
