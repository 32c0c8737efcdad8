"""Which of a publisher's signed releases a reference means.

"Latest" is computed here, by the reader, as the highest version that is not withdrawn; no signed
file says it, so nobody can point it backwards.

Source: PEP 440 for the order; PEP 592 for what "yanked" means to a resolver.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from packaging.version import Version

from p2phub.core.trust.versions import highest, parse_version
from p2phub.errors import ReleaseNotFound, ReleaseYanked


class ReleaseStatus(Enum):
    """What its publisher says of a release today."""

    ACTIVE = "active"
    DEPRECATED = "deprecated"  # works, but something better exists
    YANKED = "yanked"  # withdrawn: taken only by exact version and on request


@dataclass(frozen=True, slots=True)
class ReleaseStatement:
    """One release as its publisher signed it."""

    publisher_id: str
    name: str
    version: str  # in PEP 440's normal form
    manifest_digest: bytes  # BLAKE3 of the manifest, the release's content id
    manifest_length: int  # bytes
    manifest_sha256: bytes
    kind: str  # model or dataset
    license: str  # an SPDX expression, or empty
    status: ReleaseStatus
    reason: str  # why it is deprecated or yanked; may be empty
    root_version: int  # of the root whose keys vouch for it
    attestations: tuple[Attestation, ...] = ()

    @property
    def version_key(self) -> Version:
        """What versions are compared by: 1.0 and 1.0.0 are one."""
        return parse_version(self.version)


@dataclass(frozen=True, slots=True)
class Attestation:
    """A further document about a release, such as model.sig, bound by its digests."""

    kind: str
    content_id: str
    length: int  # bytes
    sha256: bytes


def choose_release(
    releases: Sequence[ReleaseStatement],
    *,
    name: str,
    version: str | None,
    allow_yanked: bool = False,
) -> ReleaseStatement:
    """The release of `name` that `version` means; None is the latest.

    releases: all that is signed under `name`, in any order.
    Raises ReleaseNotFound, ReleaseYanked, and BadVersion for a version that is none.
    """
    if version is None:
        usable = {
            release.version: release
            for release in releases
            if allow_yanked or release.status is not ReleaseStatus.YANKED
        }
        latest = highest(usable)
        if latest is None:
            if releases:
                raise ReleaseYanked(
                    f"all {len(releases)} releases of {name} are withdrawn by their publisher; "
                    "say --allow-yanked to take one all the same",
                    name=name,
                )
            raise ReleaseNotFound(f"the publisher has signed no release of {name}", name=name)
        return usable[latest]
    wanted = parse_version(version)
    for release in releases:
        if release.version_key == wanted:
            if release.status is ReleaseStatus.YANKED and not allow_yanked:
                why = f": {release.reason}" if release.reason else ""
                raise ReleaseYanked(
                    f"{name}@{release.version} is withdrawn by its publisher{why}; "
                    "say --allow-yanked to take it all the same",
                    name=name,
                    version=release.version,
                )
            return release
    known = highest(release.version for release in releases)
    hint = f"; the highest of {len(releases)} is {known}" if known else ""
    raise ReleaseNotFound(
        f"the publisher has signed no {name}@{wanted}{hint}", name=name, version=str(wanted)
    )
