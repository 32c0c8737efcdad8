"""Ollama's models on this disk: a manifest of layers, each a blob under its SHA-256.

Source: ollama's server/manifest.go and types/model/name.go; the OCI image manifest.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

from p2phub.digest import sha256
from p2phub.durable import failures, write_durably
from p2phub.errors import MalformedDocument, NoSuchFile, UnpublishableFile
from p2phub.paths import OllamaModels
from p2phub.proto.file_paths import check_path
from p2phub.proto.manifest import FileRecord
from p2phub.store.base import Links, Placement, Store
from p2phub.store.file_system import FileSystem
from p2phub.store.named_files import NamedFile
from p2phub.store.stamps import FileStamp

MANIFEST_BYTES_MAX = 4 << 20
LAYERS_MAX = 256
_MEDIA = "application/vnd.ollama.image."
_CONFIG = b"{}"  # all that ollama needs to know it reads from the GGUF file itself
# What a layer is called as a file.
_FILES = {
    "model": "model.gguf", "projector": "mmproj.gguf", "adapter": "adapter.gguf",
    "template": "template.txt", "system": "system.txt", "params": "params.json",
    "messages": "messages.json", "license": "LICENSE.txt",
}  # fmt: skip


def list_model(models: OllamaModels, name: str) -> list[NamedFile]:
    """The layers of a model as files, and the SHA-256 that each must have.

    Raises NoSuchFile, MalformedDocument, UnpublishableFile.
    """
    path = models.manifest(name)
    try:
        if path.stat().st_size > MANIFEST_BYTES_MAX:
            raise MalformedDocument(f"{path} is too large for a manifest")
        layers = json.loads(path.read_bytes())["layers"]
        rows = [(str(layer["mediaType"]), str(layer["digest"])) for layer in layers]
    except FileNotFoundError:
        raise NoSuchFile(f"ollama has no model {name!r} at {path}", path=str(path)) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise MalformedDocument(f"{path} is no manifest of ollama's") from error
    if not 0 < len(rows) <= LAYERS_MAX:
        raise MalformedDocument(f"{path} lists {len(rows)} layers")
    found: dict[str, NamedFile] = {}
    for media, digest in rows:
        kind, digits = media.removeprefix(_MEDIA), digest.removeprefix("sha256:")
        if len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):
            raise MalformedDocument(f"{path} names a layer by something other than a SHA-256")
        place = Path(os.path.realpath(models.blob(digits)))
        try:
            status = os.lstat(place)
        except OSError as error:
            raise UnpublishableFile(f"{place}: {error.strerror}", path=str(place)) from error
        if not stat.S_ISREG(status.st_mode):
            raise UnpublishableFile(f"{place} is no file", path=str(place))
        file = _free(_FILES.get(kind, "layer"), found)
        found[file] = NamedFile(file, place, FileStamp.of(status), bytes.fromhex(digits))
    return [found[file] for file in sorted(found)]


def write_model(
    store: Store, models: OllamaModels, name: str, model: FileRecord, *, links: Links
) -> Placement:
    """A GGUF file as a model that `ollama run NAME` finds: blobs first, then the manifest.

    Raises NotHeld, DestinationExists, StoreFailed.
    """
    files = FileSystem()
    digits = model.sha256.hex()
    where = models.blob(digits).relative_to(models.root).as_posix()
    placed = store.place_files([replace(model, path=where)], models.root, links=links)
    config = sha256(_CONFIG).hex()
    _write(files, models.blob(config), _CONFIG)
    text = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": f"sha256:{config}",
            "size": len(_CONFIG),
        },
        "layers": [
            {"mediaType": f"{_MEDIA}model", "digest": f"sha256:{digits}", "size": model.size}
        ],
    }
    path = models.manifest(name)
    _write(files, path, json.dumps(text).encode())
    return Placement(path, placed.methods, placed.extra_bytes)


def _write(files: FileSystem, path: Path, data: bytes) -> None:
    files.make_folder(path.parent)
    with failures(path):
        write_durably(path, data)


def _free(name: str, taken: dict[str, NamedFile]) -> str:
    """`name`, with a number where another layer has it."""
    stem, dot, ending = name.partition(".")
    number = 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}{dot}{ending}"
    return check_path(name)
