"""Release versions and their order: PEP 440, and nothing else.

Two texts of one version (1.0 and 1.0.0, 2.0-rc.1 and 2.0rc1) name one release. Publishing writes
the normal form; looking up accepts every form.

Source: PEP 440; the `packaging` library is its reference implementation.
"""

from __future__ import annotations

from collections.abc import Iterable

from packaging.version import InvalidVersion, Version

from p2phub.errors import BadVersion
from p2phub.proto.names import is_version_text


def parse_version(text: str) -> Version:
    """The version that `text` stands for. Raises BadVersion if it is none."""
    if not is_version_text(text):
        raise BadVersion(f"{text[:80]!a} is not a version: use PEP 440, such as 1.0 or 2.0rc1")
    try:
        return Version(text)
    except InvalidVersion:
        raise BadVersion(f"{text!a} is not a version: use PEP 440, such as 1.0 or 2.0rc1") from None


def normal_version(text: str) -> str:
    """The one way to write the version `text`. Raises BadVersion if it is none."""
    return str(parse_version(text))


def is_normal_version(text: str) -> bool:
    """Whether `text` is a version in its normal form."""
    try:
        return normal_version(text) == text
    except BadVersion:
        return False


def highest(versions: Iterable[str]) -> str | None:
    """The highest of `versions`, each a valid one; None if there are none."""
    return max(versions, key=parse_version, default=None)
