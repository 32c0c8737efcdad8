"""Content: the bytes or documents are wrong."""

from __future__ import annotations

from p2phub.errors.base import P2phubError


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
