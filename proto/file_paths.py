"""Which file paths a manifest may name. Everything that some system reads in two ways is refused.

Rules for each component, for the whole path, and for the set of paths of one release: no escape
from the folder, no name special to Windows, git or a shell, no two names that one file system would
merge.

Source: SPEC.md section 6; git's protections for .git aliases; Windows file naming rules; Unicode
NFC and NFKC.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from p2phub.errors import HostilePath
from p2phub.proto.limits import COMPONENT_BYTES_MAX, PATH_BYTES_MAX, PATH_COMPONENTS_MAX

_FORBIDDEN = frozenset('\\:*?"<>|')
_RESERVED = frozenset(
    {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}
    | {f"{device}{digit}" for device in ("COM", "LPT") for digit in "0123456789¹²³"}
)
# Components that mean the same on every system and are no device, and paths of such: most of them.
_PLAIN_COMPONENT = (
    r"(?!(?i:CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9])(?:[./]|\Z))"
    r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_-])?"
)
_PLAIN = re.compile(f"{_PLAIN_COMPONENT}(?:/{_PLAIN_COMPONENT})*", re.ASCII)
_SHORT_FORM = re.compile(r"~\d")
_DEVICE = "has a component that is a device on Windows"
_CATEGORIES_REFUSED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"})


def check_path(path: str) -> str:
    """`path` itself if it is safe as a relative path on every system; raises HostilePath with the
    reason.
    """
    is_short = len(path) <= COMPONENT_BYTES_MAX and path.count("/") < PATH_COMPONENTS_MAX
    if is_short and _PLAIN.fullmatch(path):
        return path
    try:
        size = len(path.encode("utf-8"))
    except UnicodeEncodeError:
        raise _refused(path, "is not valid UTF-8") from None
    if not 0 < size <= PATH_BYTES_MAX:
        raise _refused(path, f"is empty or longer than {PATH_BYTES_MAX} bytes")
    components = path.split("/")
    if len(components) > PATH_COMPONENTS_MAX:
        raise _refused(path, f"has more than {PATH_COMPONENTS_MAX} components")
    for component in components:
        reason = _reason_against(component)
        if reason:
            raise _refused(path, reason)
    return path


def check_together(paths: Iterable[str]) -> None:
    """Raises HostilePath if two of `paths` would be one file somewhere, or one is a folder of
    another.

    paths: each already passed `check_path`.
    """
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        folded = fold(path)
        if folded in files:
            raise _refused(path, f"is the same file as {files[folded]!r:.200} on some systems")
        files[folded] = path
        parent = folded
        spelled = path
        while (cut := parent.rfind("/")) > 0:
            parent, spelled = parent[:cut], spelled[: spelled.rfind("/")]
            known = folders.setdefault(parent, spelled)
            if known == spelled:
                continue
            raise _refused(path, f"spells a folder in another way than {known!r:.200}")
    for folded, spelled in folders.items():
        if folded in files:
            raise _refused(files[folded], f"is both a file and the folder {spelled!r:.200}")


def fold(path: str) -> str:
    """What case-blind, Unicode-normalising file systems take `path` for."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())


def _reason_against(component: str) -> str | None:
    if component in ("", ".", ".."):
        return "has an empty, '.' or '..' component"
    if len(component.encode("utf-8")) > COMPONENT_BYTES_MAX:
        return f"has a component longer than {COMPONENT_BYTES_MAX} bytes"
    if _PLAIN.fullmatch(component):
        return None
    if unicodedata.normalize("NFC", component) != component:
        return "is not in Unicode's composed form (NFC)"
    if any(c in _FORBIDDEN or unicodedata.category(c) in _CATEGORIES_REFUSED for c in component):
        return "has a control, invisible or reserved character"
    folded = fold(component)
    for form in (component, folded):
        if form[:1] in "-~ " or form[-1:] in ". ":
            return (
                "has a component that begins with '-', '~' or a space, or ends with a dot or space"
            )
    if (
        folded.startswith((".git", ".p2phub"))
        or any(c in "/\\:" for c in folded)
        or folded in (".", "..")
    ):
        return "has a component that git or p2phub itself would act on"
    if _SHORT_FORM.search(folded):
        return "has a component that may be a Windows short name"
    stem = folded.split(".")[0].strip().upper()
    if stem in _RESERVED or component.split(".")[0].strip().upper() in _RESERVED:
        return _DEVICE
    return None


def _refused(path: str, reason: str) -> HostilePath:
    shown = ascii(path)[:200]
    return HostilePath(f"the path {shown} {reason}", path=shown)
