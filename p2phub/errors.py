"""Every error a person can meet, grouped by whose fault it is.

The docstring of a class is what the user reads: what happened, what it means, what to do. `exit_code` is what the command
line ends with. Facts travel as attributes (`facts`), so that `--json` shows them and no text needs parsing.
A bug is not an error of this kind: it is an exception of Python's own and ends the program with a traceback.
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


# ---- usage: the request itself is wrong -------------------------------------------------------------------------------


class UsageError(P2phubError):
    """The command was not understood or cannot be carried out as given. Nothing was changed; see --help."""

    exit_code = 2


class UnknownReference(UsageError):
    """This is not a reference p2phub knows. Use a content id (bafk...), sha256:<64 hex>, petname/name[@version] or a p2phub:// link."""

    exit_code = 3


class DaemonNotRunning(UsageError):
    """No daemon answers for this home folder. Start one with `p2phub daemon`, or name another home with --home."""

    exit_code = 4


class DaemonAlreadyRunning(UsageError):
    """Another daemon already uses this home folder. Stop it first, or give this one its own --home."""

    exit_code = 5


class BadSetting(UsageError):
    """A setting has a value that cannot be used. Nothing was started; correct the named setting."""

    exit_code = 6


class UnsafeKeyFile(UsageError):
    """A private key file can be read by others, so it is not used. Make it yours alone: chmod 600 on the named file."""

    exit_code = 7


# ---- content: the bytes or documents are wrong ------------------------------------------------------------------------


class ContentError(P2phubError):
    """The content is not what it must be. Nothing of it was kept."""

    exit_code = 20


class MalformedDocument(ContentError):
    """A document is not in the one form its format allows. It is refused whole; ask its publisher for a correct one."""

    exit_code = 21


class HostilePath(ContentError):
    """A file name in this release could write outside its folder or mislead a reader. The release is refused; rename the file and publish again."""

    exit_code = 22


class WrongChunk(ContentError):
    """Bytes do not match the name they were asked by. They were thrown away; the peer that sent them is not asked again."""

    exit_code = 23


class DigestMismatch(ContentError):
    """A file's SHA-256 is not the one its manifest states. Its chunks are genuine but the statement is false: do not trust the release; its signer is named."""

    exit_code = 24


class FileChanged(ContentError):
    """A file changed while it was read. Nothing was published; wait until nobody writes to the folder and run the command again."""

    exit_code = 25


class NothingToPublish(ContentError):
    """The folder holds no files that can be published. Nothing was changed."""

    exit_code = 26


class TooLarge(ContentError):
    """Something is larger than its format allows. Nothing of it was kept."""

    exit_code = 27


# ---- trust: a signature, a name or a version is wrong -----------------------------------------------------------------


class TrustError(P2phubError):
    """The release is not signed as it must be. Nothing was fetched under this name."""

    exit_code = 30


# ---- store: this machine's disk ---------------------------------------------------------------------------------------


class StoreError(P2phubError):
    """The store on this machine could not do what was asked. What it already holds is untouched."""

    exit_code = 50


class NotHeld(StoreError):
    """This node does not hold these bytes. Fetch them first."""

    exit_code = 51


class StoreFull(StoreError):
    """There is not enough room on the disk. Nothing was lost: free some space and run the same command again, it resumes."""

    exit_code = 52


class CorruptChunk(StoreError):
    """A chunk on this disk no longer matches its name. It was set aside and will be fetched again; check the disk."""

    exit_code = 53


class StoreNewer(StoreError):
    """The store was written by a newer p2phub. It was left as it is; upgrade p2phub to use it."""

    exit_code = 54


class StoreFailed(StoreError):
    """The disk refused a read or a write. Transfers pause; check the disk, then run the same command again."""

    exit_code = 55


class DestinationExists(StoreError):
    """The destination holds other files under the same names. Nothing was overwritten; choose another folder."""

    exit_code = 56


# ---- network: nobody answered, or a port is taken ---------------------------------------------------------------------


class NetworkError(P2phubError):
    """The network could not do what was asked. Nothing was lost; the same command resumes."""

    exit_code = 60


class PortInUse(NetworkError):
    """Another program listens on this address. Nothing was started; stop it or choose another port."""

    exit_code = 61


class NoProvider(NetworkError):
    """No peer was found that holds this. Check the reference, wait until its publisher is online, or name a peer with --peer."""

    exit_code = 62


class PeerUnreachable(NetworkError):
    """A peer could not be reached at any of its addresses. It may be offline or behind a firewall."""

    exit_code = 63


class TransferStalled(NetworkError):
    """All peers stopped sending before the transfer was complete. What was verified is kept; run the same command again to resume."""

    exit_code = 64


# ---- peer: the other side broke the rules -----------------------------------------------------------------------------


class PeerError(P2phubError):
    """A peer broke the protocol. Its connection was closed; other peers are not affected."""

    exit_code = 70


class ProtocolViolation(PeerError):
    """A peer sent something the protocol does not allow. Its connection was closed."""

    exit_code = 71


class StreamClosed(PeerError):
    """The connection to a peer ended before the exchange was done."""

    exit_code = 72


class PeerTimeout(PeerError):
    """A peer did not answer in time. Another peer is asked."""

    exit_code = 73
