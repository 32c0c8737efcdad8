"""Trust: a signature, a name or a version is wrong."""

from __future__ import annotations

from p2phub.errors.base import P2phubError


class TrustError(P2phubError):
    """The release is not signed as it must be. Nothing was fetched under this name."""

    exit_code = 30


class WrongSigner(TrustError):
    """The publisher's own keys did not sign this.

    It was refused and nothing changed; somebody may be posing as the publisher.
    """

    exit_code = 31


class RollbackRefused(TrustError):
    """What was offered is older than what this node has already seen signed.

    It was refused; what was known before still holds. Try again when other peers are online.
    """

    exit_code = 32


class TamperedMetadata(TrustError):
    """A file of signed metadata was altered, damaged, or does not belong with the others.

    It was refused and nothing changed; ask other peers.
    """

    exit_code = 33


class UnknownPublisher(TrustError):
    """No peer that answered knows this publisher.

    Check the whole id, wait until the publisher is online, or name a peer with --peer.
    """

    exit_code = 34


class EquivocationFound(TrustError):
    """The publisher signed two different things under one version number, so its word no longer
    counts here. Both are kept as evidence. Content ids still work; ask the publisher, then run
    `p2phub trust reset`.
    """

    exit_code = 35


class MetadataExpired(TrustError):
    """The publisher's last signed word has expired, so it is not known what is current.

    Known releases still work by version; wait for the publisher, or for peers that have something
    newer.
    """

    exit_code = 36


class ReleaseNotFound(TrustError):
    """The publisher has signed no release of this name and version.

    Check the spelling and the version.
    """

    exit_code = 37


class FloorLost(TrustError):
    """The record of what this node has already seen signed is gone, so old releases could be passed
    off as new. Names are refused until `p2phub trust reset`; content ids still work.
    """

    exit_code = 38


class WrongPassphrase(TrustError):
    """The passphrase does not open this key. Nothing was signed; try again."""

    exit_code = 39


class VersionExists(TrustError):
    """This version is already published with other content, and a release never changes.

    Nothing was signed; publish under a new version.
    """

    exit_code = 40


class ReleaseYanked(TrustError):
    """The publisher has withdrawn this release.

    Choose another version, or say --allow-yanked to fetch it all the same.
    """

    exit_code = 41


class ClockSetBack(TrustError):
    """This machine's clock is behind a time it has already seen, so expiry cannot be judged.

    Set the clock right and try again.
    """

    exit_code = 42


class BrokenRootChain(TrustError):
    """The publisher's new root keys were not announced by the old ones, or a step is missing.

    They were refused: the old keys may be stolen, or peers are behind.
    """

    exit_code = 43


class MetadataIncomplete(TrustError):
    """The peers that answered hold only a part of what the publisher signed.

    Nothing changed; try again, or name a peer with --peer.
    """

    exit_code = 44


class UnknownPetname(TrustError):
    """No publisher has this petname here.

    List them with `p2phub trust ls`, or add one with `p2phub trust add PUBLISHER_ID --as PETNAME`.
    """

    exit_code = 45


class PetnameTaken(TrustError):
    """This petname, or one that looks the same, already stands for another publisher.

    Nothing was changed; choose another or remove that one first.
    """

    exit_code = 46


class BadSigningKey(TrustError):
    """A key file cannot be read as an Ed25519 private key.

    Nothing was signed; restore it from a copy or create new keys.
    """

    exit_code = 47
