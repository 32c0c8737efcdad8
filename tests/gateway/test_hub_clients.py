"""Unmodified huggingface_hub, in a process of its own, reads a release that this node only
knows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import trio

from tests.gateway.serving import Served, following, publish, serving, write_model
from tests.memory_node import MemoryNode
from tests.memory_world import World

HF = Path(sys.executable).with_name("hf")


async def run(served: Served, home: Path, *command: str) -> str:
    """The standard output of a command that reads from the gateway alone."""
    environment = {
        "HF_ENDPOINT": served.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "PATH": os.environ["PATH"],
        "HOME": str(home),
    }
    with trio.fail_after(60):
        done = await trio.run_process(
            command,
            env=environment,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".cache" not in path.parts
    }


async def test_hf_download_gets_a_model_byte_for_byte(tmp_path: Path) -> None:
    world = World()
    (tmp_path / "model").mkdir()
    files = write_model(tmp_path / "model")
    commit = await publish(MemoryNode(world), tmp_path / "model", "tiny")
    node = await following(world)
    async with serving(node) as served:
        shown = await run(served, tmp_path / "cache", str(HF), "download", "lab/tiny")
        snapshot = next((tmp_path / "cache").rglob(f"snapshots/{commit}"))
        assert files_in(snapshot) == files
        assert commit in shown
        # Again, and into a folder: nothing is fetched from peers twice.
        held = len(node.shelf.chunks)
        await run(
            served,
            tmp_path / "other",
            str(HF),
            "download",
            "lab/tiny",
            "--local-dir",
            str(tmp_path / "out"),
        )
        assert files_in(tmp_path / "out") == files and len(node.shelf.chunks) == held


async def test_hf_download_gets_a_dataset_and_a_revision(tmp_path: Path) -> None:
    world = World()
    (tmp_path / "data").mkdir()
    files = write_model(tmp_path / "data")
    await publish(MemoryNode(world), tmp_path / "data", "table", "2.1", kind="dataset")
    async with serving(await following(world)) as served:
        await run(
            served,
            tmp_path / "cache",
            *(str(HF), "download", "lab/table", "--repo-type", "dataset", "--revision", "2.1"),
            *("--local-dir", str(tmp_path / "out")),
        )
    assert files_in(tmp_path / "out") == files


async def test_the_library_lists_reads_parts_and_names_what_is_missing(tmp_path: Path) -> None:
    world = World()
    (tmp_path / "model").mkdir()
    write_model(tmp_path / "model")
    await publish(MemoryNode(world), tmp_path / "model", "tiny")
    script = """
import json
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
api, found = HfApi(), {}
found["files"] = sorted(api.list_repo_files("lab/tiny"))
found_paths = api.get_paths_info("lab/tiny", ["config.json", "weights"])
found["sizes"] = {i.path: i.size for i in found_paths if hasattr(i, "size")}
found["refs"] = [tag.name for tag in api.list_repo_refs("lab/tiny").tags]
found["exists"] = [api.file_exists("lab/tiny", name) for name in ("config.json", "absent")]
found["glob"] = HfFileSystem().glob("lab/tiny/**/*.safetensors")
with HfFileSystem().open("lab/tiny/weights/model.safetensors", "rb") as file:
    file.seek(200_000)
    found["part"] = len(file.read(1000))
for error, call in (
    (EntryNotFoundError, lambda: hf_hub_download("lab/tiny", "absent")),
    (RevisionNotFoundError, lambda: api.model_info("lab/tiny", revision="9.9")),
    (RepositoryNotFoundError, lambda: api.model_info("lab/absent")),
):
    try:
        call()
    except error:
        found[error.__name__] = True
print(json.dumps(found))
"""
    async with serving(await following(world)) as served:
        found = json.loads(await run(served, tmp_path / "cache", sys.executable, "-c", script))
    assert found == {
        "files": [
            "README.md", "config.json", "empty.txt", "weights/extra/más 1.bin",
            "weights/model.safetensors",
        ],
        "sizes": {"config.json": 22},
        "refs": ["1.0"],
        "exists": [True, False],
        "glob": ["lab/tiny/weights/model.safetensors"],
        "part": 1000,
        "EntryNotFoundError": True,
        "RevisionNotFoundError": True,
        "RepositoryNotFoundError": True,
    }  # fmt: skip
