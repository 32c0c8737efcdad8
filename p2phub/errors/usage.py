"""Usage: the request itself is wrong."""

from __future__ import annotations

from p2phub.errors.base import P2phubError


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
