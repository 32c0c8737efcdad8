"""Every error a person can meet, grouped by whose fault it is.

The docstring of a class is what the user reads: what happened, what it means, what to do.
`exit_code` is what the command line ends with. Facts travel as attributes (`facts`), so that
`--json` shows them and no text needs parsing. A bug is not an error of this kind: it is an
exception of Python's own and ends the program with a traceback.
"""

from __future__ import annotations

from typing import ClassVar


class P2phubError(Exception):
    """Something went wrong that p2phub expected could go wrong."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "", **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts

    @property
    def kind(self) -> str:
        """The name scripts match on: the class's own name."""
        return type(self).__name__

    def __str__(self) -> str:
        return self.message or explanation(type(self))


def explanation(error: type[P2phubError]) -> str:
    """The class docstring as one line of running text."""
    return " ".join((error.__doc__ or error.__name__).split())


def all_errors(base: type[P2phubError] = P2phubError) -> list[type[P2phubError]]:
    """`base` and everything below it, parents first."""
    found = [base]
    for child in base.__subclasses__():
        found.extend(all_errors(child))
    return found


def expected(error: BaseException) -> P2phubError | None:
    """The expected error in `error`, also where nurseries wrapped it in groups; None: it holds a
    bug.
    """
    if isinstance(error, P2phubError):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [expected(inner) for inner in error.exceptions]
        return found[0] if all(found) else None
    return None


# ---- usage: the request itself is wrong ----------------------------------------------------------


class UsageError(P2phubError):
    """The command was not understood or cannot be carried out as given.

    Nothing was changed; see --help.
    """

    exit_code = 2


class UnknownReference(UsageError):
    """This is not a reference p2phub knows.

    Use a content id (bafk...), sha256:<64 hex>, petname/name[@version] or a p2phub:// link.
    """

    exit_code = 3


class DaemonNotRunning(UsageError):
    """No daemon answers for this home folder.

    Start one with `p2phub daemon`, or name another home with --home.
    """

    exit_code = 4


class DaemonAlreadyRunning(UsageError):
    """Another daemon already uses this home folder.

    Stop it first, or give this one its own --home.
    """

    exit_code = 5


class BadSetting(UsageError):
    """A setting has a value that cannot be used. Nothing was started; correct the named setting."""

    exit_code = 6


class UnsafeKeyFile(UsageError):
    """A private key file can be read by others, so it is not used.

    Make it yours alone: chmod 600 on the named file.
    """

    exit_code = 7


class BadReleaseName(UsageError):
    """This cannot name a release.

    Names have ASCII letters, digits, '.', '_' and '-', at most 96, and none of TUF's or Windows'
    own names.
    """

    exit_code = 8


class BadVersion(UsageError):
    """This is not a version. Versions are ordered as PEP 440 says: 1.0, 1.2.3, 2.0rc1, 2026.8.1."""

    exit_code = 9


class BadPetname(UsageError):
    """This cannot be a petname.

    Petnames have ASCII letters, digits, '.', '_' and '-', at most 40, so that no other letter can
    pose as one of them.
    """

    exit_code = 10


class BadPassphrase(UsageError):
    """Signing keys are never stored without a passphrase. Give one of at least 8 characters."""

    exit_code = 11


class NoSuchFile(UsageError):
    """There is no such file or folder, here or in the release.

    `p2phub show` lists the files of a release.
    """

    exit_code = 12


class NothingSelected(UsageError):
    """No file of the release matches what --include and --exclude ask for.

    Nothing was fetched; see `p2phub show` for the names.
    """

    exit_code = 15


# ---- content: the bytes or documents are wrong ---------------------------------------------------


class ContentError(P2phubError):
    """The content is not what it must be. Nothing of it was kept."""

    exit_code = 20


class MalformedDocument(ContentError):
    """A document is not in the one form its format allows.

    It is refused whole; ask its publisher for a correct one.
    """

    exit_code = 21


class HostilePath(ContentError):
    """A file name in this release could write outside its folder or mislead a reader.

    The release is refused; rename the file and publish again.
    """

    exit_code = 22


class WrongChunk(ContentError):
    """Bytes do not match the name they were asked by.

    They were thrown away; the peer that sent them is not asked again.
    """

    exit_code = 23


class DigestMismatch(ContentError):
    """A file's SHA-256 is not the one its manifest states.

    Its chunks are genuine but the statement is false: do not trust the release; its signer is
    named.
    """

    exit_code = 24


class FileChanged(ContentError):
    """A file changed while it was read.

    Nothing was published; wait until nobody writes to the folder and run the command again.
    """

    exit_code = 25


class NothingToPublish(ContentError):
    """The folder holds no files that can be published. Nothing was changed."""

    exit_code = 26


class TooLarge(ContentError):
    """Something is larger than its format allows. Nothing of it was kept."""

    exit_code = 27


class UnpublishableFile(ContentError):
    """The folder holds something that is no readable, regular file.

    Nothing was published; put the file itself there, or take it out.
    """

    exit_code = 28


# ---- trust: a signature, a name or a version is wrong --------------------------------------------


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


# ---- store: this machine's disk ------------------------------------------------------------------


class StoreError(P2phubError):
    """The store on this machine could not do what was asked. What it already holds is untouched."""

    exit_code = 50


class NotHeld(StoreError):
    """This node does not hold these bytes. Fetch them first."""

    exit_code = 51


class StoreFull(StoreError):
    """There is not enough room on the disk, or within store_max.

    Nothing was lost: free some space and run the same command again, it resumes. A fetch waits for
    room first, as long as --wait-for-room says.
    """

    exit_code = 52


class CorruptChunk(StoreError):
    """A chunk on this disk no longer matches its name.

    It was set aside and will be fetched again; check the disk.
    """

    exit_code = 53


class StoreNewer(StoreError):
    """The store was written by a newer p2phub. It was left as it is; upgrade p2phub to use it."""

    exit_code = 54


class StoreFailed(StoreError):
    """The disk refused a read or a write.

    Nothing that it refused is believed. Check the disk, then run the same command again, it
    resumes. A fetch whose disk fails, is read-only or gone waits first, as long as --wait-for-room
    says.
    """

    exit_code = 55


class DestinationExists(StoreError):
    """The destination holds other files under the same names.

    Nothing was overwritten; choose another folder.
    """

    exit_code = 56


# ---- network: nobody answered, or a port is taken ------------------------------------------------


class NetworkError(P2phubError):
    """The network could not do what was asked. Nothing was lost; the same command resumes."""

    exit_code = 60


class PortInUse(NetworkError):
    """Another program listens on this address.

    Nothing was started; stop it or choose another port.
    """

    exit_code = 61


class NoProvider(NetworkError):
    """No peer was found that holds this.

    Check the reference, wait until its publisher is online, or name a peer with --peer.
    """

    exit_code = 62


class PeerUnreachable(NetworkError):
    """A peer could not be reached at any of its addresses.

    It may be offline or behind a firewall.
    """

    exit_code = 63


class TransferStalled(NetworkError):
    """All peers stopped sending before the transfer was complete.

    What was verified is kept; run the same command again to resume.
    """

    exit_code = 64


class LanesBusy(NetworkError):
    """Too many lanes are opening at once.

    The transfer goes on over the session's own connection.
    """

    exit_code = 65


# ---- peer: the other side broke the rules --------------------------------------------------------


class PeerError(P2phubError):
    """A peer broke the protocol. Its connection was closed; other peers are not affected."""

    exit_code = 70


class ProtocolViolation(PeerError):
    """A peer sent something the protocol does not allow. Its connection was closed."""

    exit_code = 71


class StreamClosed(PeerError):
    """The connection to a peer ended before the exchange was done.

    Another peer is asked; what was verified is kept.
    """

    exit_code = 72


class PeerTimeout(PeerError):
    """A peer did not answer in time. Another peer is asked."""

    exit_code = 73


class ProtocolRefused(PeerError):
    """A peer does not offer what was asked of it.

    It may run another version; another peer is asked.
    """

    exit_code = 74
