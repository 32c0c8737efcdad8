"""To and from other tools' folders, by real nodes and the tools' own libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from p2phub.config import HostPort
from p2phub.digest import git_blob_id, sha256
from p2phub.errors import (
    ContentError,
    DestinationExists,
    NoSuchFile,
    NothingToPublish,
    UnpublishableFile,
    UsageError,
)
from p2phub.gateway.app import Gateway
from p2phub.gateway.server import listen, serve_gateway
from p2phub.node.api import ReleaseTerms
from p2phub.node.exchange_api import Exported, ExportRequest, Imported, ImportRequest, Tool
from p2phub.node.node import Node
from p2phub.proto.names import parse_reference
from tests.node.real_nodes import (
    address,
    fetch,
    ignore,
    node,
    publish,
    publish_signed,
    same_files,
    write_model,
)

HF = Path(sys.executable).with_name("hf")


async def export(
    running: Node, reference: str, tool: Tool, folder: Path, *, link: bool = False, name: str = ""
) -> Exported:
    request = ExportRequest(
        reference=parse_reference(reference), tool=tool, folder=folder, name=name, hardlink=link
    )
    return await running.exchange.export(request, ignore)


async def take(running: Node, tool: Tool, folder: Path, name: str = "") -> Imported:
    request = ImportRequest(tool=tool, folder=folder, name=name)
    return await running.exchange.take_in(request, ReleaseTerms(kind="model"), ignore)


async def run(cache: Path, *command: str, endpoint: str = "") -> str:
    """The output of a program that finds the Hub's cache at `cache`, and no Hub but `endpoint`."""
    environment = {
        **({"HF_ENDPOINT": endpoint, "NO_PROXY": "127.0.0.1"} if endpoint else {}),
        "HF_HUB_CACHE": str(cache),
        "HF_HOME": str(cache.parent / "hf-home"),
        "HF_HUB_OFFLINE": "" if endpoint else "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PATH": os.environ["PATH"],
        "HOME": str(cache.parent),
    }
    with trio.fail_after(60):
        done = await trio.run_process(
            command, env=environment, capture_stdout=True, capture_stderr=True, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


# ---- plain folders


@pytest.mark.parametrize("within", [".", "a", "a/keys", "a/keys/mine", "link"])
async def test_a_nodes_own_keys_are_never_published(tmp_path: Path, within: str) -> None:
    async with node(tmp_path / "a") as a:
        (tmp_path / "a/keys/mine").mkdir(parents=True)
        (tmp_path / "a/keys/mine/root.pem").write_text("secret")
        (tmp_path / "link").symlink_to("a/keys")
        with pytest.raises(UsageError, match="own keys"):
            await publish(a, tmp_path / within)
        with pytest.raises(UsageError, match="own keys"):
            await take(a, "folder", tmp_path / within)


async def test_a_release_is_exported_as_plain_files(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id = await publish(a, model)
        await fetch(b, content_id, peers=(await address(a),))
        done = await export(b, content_id, "folder", tmp_path / "out")
        assert same_files(model, tmp_path / "out")
        assert (done.file_count, done.path) == (4, tmp_path / "out")
        linked = await export(b, content_id, "folder", tmp_path / "linked", link=True)
        assert same_files(model, tmp_path / "linked")
        # Large files cost nothing; the small ones come out of packs.
        assert linked.extra_bytes < 250_000
        assert "hardlink" in linked.method or "reflink" in linked.method
        (tmp_path / "out" / "README.md").write_text("mine")
        with pytest.raises(DestinationExists):
            await export(b, content_id, "folder", tmp_path / "out")
        assert (tmp_path / "out" / "README.md").read_text() == "mine"


async def test_a_folder_is_imported_without_a_signature(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        taken = await take(a, "folder", model)
        assert taken.prepared.extra_bytes == 0
        assert [row.content_id for row in await a.releases()] == [taken.content_id]
        assert (await a.upkeep.collect(False)).file_count == 0
        fetched = await fetch(b, taken.content_id, peers=(await address(a),))
        assert same_files(model, fetched.path)


# ---- the Hub's cache


async def test_the_hubs_own_tools_take_an_export_for_theirs(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    cache = tmp_path / "hub"
    async with node(tmp_path / "a") as a:
        await publish_signed(a, model, tmp_path / "a")
        done = await export(a, "lab/tiny@1.0", "hf", cache)
        again = await export(a, "lab/tiny@1.0", "hf", cache)
    assert (done.name, again.extra_bytes) == ("lab/tiny", 0)
    commit = done.path.name
    repository = cache / "models--lab--tiny"
    assert (repository / "refs" / "main").read_bytes() == commit.encode()
    assert (repository / "refs" / "1.0").read_bytes() == commit.encode()
    nested = repository / "snapshots" / commit / "nested" / "vocabulary.bin"
    digits = sha256((model / "nested" / "vocabulary.bin").read_bytes()).hex()
    assert os.readlink(nested) == f"../../../blobs/{digits}"
    script = """
import json, sys
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download
(repo,) = scan_cache_dir().repos
(revision,) = repo.revisions
print(json.dumps([
    snapshot_download("lab/tiny"), hf_hub_download("lab/tiny", "nested/vocabulary.bin"),
    snapshot_download("lab/tiny", revision="1.0"), repo.repo_id, sorted(revision.refs),
    revision.nb_files, [str(w) for w in scan_cache_dir().warnings],
]))
"""
    found = json.loads(await run(cache, sys.executable, "-c", script))
    snapshot = str(repository / "snapshots" / commit)
    assert found[:3] == [snapshot, f"{snapshot}/nested/vocabulary.bin", snapshot]
    assert found[3:] == ["lab/tiny", ["1.0", "main"], 4, []]
    assert same_files(model, Path(snapshot))
    assert "lab/tiny" in await run(cache, str(HF), "cache", "ls")


async def test_the_hubs_verification_finds_an_export_right(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    script = """
from huggingface_hub import HfApi
import sys
found = HfApi().verify_repo_checksums(sys.argv[1])
print(found.checked_count, found.mismatches, found.missing_paths, found.extra_paths)
"""
    async with node(tmp_path / "a") as a:
        content_id = await publish(a, model)
        await export(a, content_id, "hf", tmp_path / "hub")
        async with trio.open_nursery() as nursery:
            listening = listen(HostPort("127.0.0.1", 0))
            url = await nursery.start(serve_gateway, Gateway(a), listening)
            program = (sys.executable, "-c", script, content_id)
            said = await run(tmp_path / "hub", *program, endpoint=url)
            nursery.cancel_scope.cancel()
    assert said == "4 [] [] []\n"


async def test_an_export_does_not_replace_what_a_cache_holds(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a:
        content_id = await publish(a, model)
        done = await export(a, content_id, "hf", tmp_path / "hub", name="org/name")
        blob = Path(os.path.realpath(done.path / "README.md"))
        blob.chmod(0o644)
        blob.write_text("damaged by somebody")
        with pytest.raises(DestinationExists):
            await export(a, content_id, "hf", tmp_path / "hub", name="org/name")
        assert blob.read_text() == "damaged by somebody"


def write_cache(cache: Path, files: dict[str, bytes], *, large: int = 1000) -> Path:
    """A repository as huggingface_hub leaves it: SHA-256 names large blobs, git the small ones."""
    repository = cache / "models--org--name"
    commit = "c0" * 20
    for path, data in files.items():
        name = sha256(data).hex() if len(data) >= large else git_blob_id(data).hex()
        blob, link = repository / "blobs" / name, repository / "snapshots" / commit / path
        for folder in (blob.parent, link.parent):
            folder.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (repository / "blobs" / "abc.incomplete").write_bytes(b"half")
    return repository


FILES = {"config.json": b"{}", "deep/model.bin": bytes(range(256)) * 9000, "README.md": b"# hi\n"}


async def test_a_repository_of_the_hubs_cache_is_imported_compared(tmp_path: Path) -> None:
    write_cache(tmp_path / "hub", FILES)
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        taken = await take(a, "hf", tmp_path / "hub", "org/name")
        assert (taken.compared_count, taken.uncompared_count) == (3, 0)
        assert taken.prepared.extra_bytes == 0
        fetched = await fetch(b, taken.content_id, peers=(await address(a),))
        found = {p.relative_to(fetched.path).as_posix(): p.read_bytes()
                 for p in fetched.path.rglob("*") if p.is_file()}  # fmt: skip
        assert found == FILES


@pytest.mark.parametrize("path", ["config.json", "deep/model.bin"])
async def test_a_damaged_cache_is_refused_and_nothing_is_told(tmp_path: Path, path: str) -> None:
    repository = write_cache(tmp_path / "hub", FILES)
    blob = Path(os.path.realpath(next(repository.glob(f"snapshots/*/{path}"))))
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    async with node(tmp_path / "a") as a:
        announced = (await a.status()).announcements_queued
        with pytest.raises(ContentError) as caught:
            await take(a, "hf", tmp_path / "hub", "org/name")
        assert caught.value.facts["path"] == path
        assert await a.releases() == ()
        assert (await a.status()).announcements_queued == announced
        assert a._store.usage().adopted_bytes == 0


async def test_a_cache_without_links_is_compared_with_what_the_hub_said(tmp_path: Path) -> None:
    commit = "c0" * 20
    repository = tmp_path / "hub" / "models--org--name"
    files: dict[str, object] = {}
    for path, data in FILES.items():
        place = repository / "snapshots" / commit / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        files[path] = {"size": len(data), "blob_id": git_blob_id(data).hex()}
    files["deep/model.bin"] = {
        "size": 1, "blob_id": "0" * 40, "lfs_sha256": sha256(FILES["deep/model.bin"]).hex(),
    }  # fmt: skip
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (repository / "trees").mkdir()
    tree = repository / "trees" / f"{commit}.json"
    tree.write_text(json.dumps({"format_version": 1, "files": files}))
    async with node(tmp_path / "a") as a:
        assert (await take(a, "hf", tmp_path / "hub", "org/name")).compared_count == 3
        (repository / "snapshots" / commit / "README.md").unlink()
        with pytest.raises(NoSuchFile):  # a snapshot that is not whole
            await take(a, "hf", tmp_path / "hub", "org/name")
        tree.unlink()
        taken = await take(a, "hf", tmp_path / "hub", "org/name")
        assert (taken.compared_count, taken.uncompared_count) == (0, 2)


async def test_what_is_no_whole_repository_is_refused(tmp_path: Path) -> None:
    async with node(tmp_path / "a") as a:
        with pytest.raises(NoSuchFile):
            await take(a, "hf", tmp_path / "hub", "org/absent")
        repository = write_cache(tmp_path / "hub", FILES)
        (snapshot,) = (repository / "snapshots").iterdir()
        (snapshot / "broken").symlink_to("../../blobs/absent")
        with pytest.raises(UnpublishableFile):
            await take(a, "hf", tmp_path / "hub", "org/name")
        for link in snapshot.rglob("*"):
            if link.is_symlink():
                link.unlink()
        with pytest.raises(NothingToPublish):
            await take(a, "hf", tmp_path / "hub", "org/name")


# ---- ollama


async def test_a_gguf_file_goes_to_ollama_and_comes_back_as_the_same_content(
    tmp_path: Path,
) -> None:
    (tmp_path / "model").mkdir()
    data = b"GGUF" + bytes(range(256)) * 9000
    (tmp_path / "model" / "tiny.gguf").write_bytes(data)
    (tmp_path / "model" / "README.md").write_text("# hi\n")
    models = tmp_path / "ollama"
    async with node(tmp_path / "a") as a:
        published = await publish_signed(a, tmp_path / "model", tmp_path / "a")
        done = await export(a, "lab/tiny", "ollama", models)
        assert done.name == "lab/tiny"
        manifest = json.loads(done.path.read_bytes())
        for entry in (manifest["config"], *manifest["layers"]):
            blob = models / "blobs" / entry["digest"].replace(":", "-")
            assert sha256(blob.read_bytes()).hex() == entry["digest"].removeprefix("sha256:")
            assert blob.stat().st_size == entry["size"]
        taken = await take(a, "ollama", models, "lab/tiny:latest")
        assert (taken.compared_count, taken.uncompared_count) == (1, 0)
        view = await a.show(parse_reference(taken.content_id))
        assert [file.sha256 for file in view.files] == [sha256(data)]
        blob.chmod(0o644)
        blob.write_bytes(b"GGUF" + bytes(len(data) - 4))
        with pytest.raises(ContentError):
            await take(a, "ollama", models, "lab/tiny")
        with pytest.raises(NoSuchFile):
            await take(a, "ollama", models, "absent")
        assert published.content_id


async def test_a_release_without_one_gguf_file_does_not_go_to_ollama(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a:
        content_id = await publish(a, model)
        with pytest.raises(UsageError):
            await export(a, content_id, "ollama", tmp_path / "ollama", name="x")
        (model / "false.gguf").write_bytes(b"no such file")
        content_id = await publish(a, model)
        with pytest.raises(UsageError):
            await export(a, content_id, "ollama", tmp_path / "ollama", name="x")
        assert not (tmp_path / "ollama").exists()
