"""From a publisher id to the root in force: the first is the id, each announces the next.

A publisher id is the SHA-256 of the first root's signed bytes, so nobody has to be asked which root
is the right one. (Of the signed bytes, not of the file: a file can be rewritten in many ways
without breaking a signature.)

TUF accepts a new root that the old root's keys signed. A thief who has them all could then take the
publisher over for good. Therefore each root commits to the digests of keys that were never used: a
successor counts only if enough of those keys are in it, under their own digests, and their
signatures verify.

Source: TUF specification 5.3 (root updates); KERI, pre-rotation.
"""

from __future__ import annotations

from tuf.api.metadata import Root

from p2phub.errors import BrokenRootChain, WrongSigner
from p2phub.proto.names import publisher_id_text
from p2phub.trust.documents import Document, read_root, root_commitment, verify_signatures


def check_first_root(publisher_id: str, data: bytes) -> Document[Root]:
    """The root that `publisher_id` names. Raises WrongSigner for another's, TamperedMetadata."""
    root = read_root(data)
    if publisher_id_text(root.payload_sha256) != publisher_id:
        raise WrongSigner(
            "the root that was offered belongs to another publisher id", publisher_id=publisher_id
        )
    if root.version != 1:
        raise BrokenRootChain("a publisher's first root must have version 1")
    verify_signatures(root, root.signed)
    return root


def check_next_root(old: Document[Root], data: bytes) -> Document[Root]:
    """The lawful successor of `old` in `data`.

    Raises WrongSigner, BrokenRootChain if a version is skipped or the committed keys did not sign,
    TamperedMetadata.
    """
    new = read_root(data)
    if new.version != old.version + 1:
        raise BrokenRootChain(
            f"root version {new.version} was offered where version {old.version + 1} must follow",
            expected=old.version + 1,
            got=new.version,
        )
    verify_signatures(new, old.signed)
    verify_signatures(new, new.signed)
    committed = root_commitment(old.signed)
    # Being listed is not enough: the thief can list the committed keys, but cannot sign with them.
    signed = new.signed.get_verification_result("root", new.payload, new.metadata.signatures).signed
    kept = [keyid for keyid in committed.keyids if keyid in signed]
    if len(kept) < committed.threshold:
        raise BrokenRootChain(
            f"root version {new.version} is signed by {len(kept)} of the {committed.threshold} "
            f"keys that root version {old.version} announced: its keys may be stolen",
            version=new.version,
            announced=committed.threshold,
            signed=len(kept),
        )
    return new
