"""From a folder on one node to a folder on another, by every reference, and out by the gateway."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from p2phub.errors import ReleaseChanged
from tests.end_to_end.daemons import Daemon, daemons
from tests.gateway.serving import write_model

HF = Path(sys.executable).with_name("hf")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".cache" not in path.parts
    }


def test_a_release_goes_from_one_node_to_another_by_every_reference(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    files = write_model(tmp_path / "model")
    with daemons() as all_of_them:
        publisher = all_of_them.start("publisher")
        published = publisher.publish(tmp_path / "model", "tiny")
        assert published["extra_bytes"] < 1 << 20  # the files themselves are not doubled
        reader = all_of_them.start("reader", bootstrap=[publisher])

        by_link = reader.json("fetch", published["reference"], "-o", str(tmp_path / "link"))
        assert contents(tmp_path / "link") == files
        assert by_link["signer"]["publisher_id"] == published["publisher_id"]
        assert by_link["signer"]["petname"] is None

        reader.json("trust", "add", published["publisher_id"], "--as", "lab")
        by_name = reader.json("fetch", "lab/tiny@1.0.0", "-o", str(tmp_path / "name"))
        assert contents(tmp_path / "name") == files and by_name["bytes_fetched"] < 100_000

        by_id = reader.json("fetch", published["content_id"], "-o", str(tmp_path / "id"))
        assert contents(tmp_path / "id") == files
        assert by_id["content_id"] == published["content_id"]

        weights = files["weights/model.safetensors"]
        one = reader.json("fetch", f"sha256:{sha256(weights).hexdigest()}")
        assert Path(one["path"]).read_bytes() == weights

        shown = reader.json("show", "lab/tiny")
        digests = {file["path"]: file["sha256"] for file in shown["files"]}
        assert digests == {path: sha256(data).hexdigest() for path, data in files.items()}
        assert reader.json("verify", "lab/tiny")["faults"] == []
        part = reader.run("cat", "lab/tiny", "README.md", "--range", "2-3")
        assert part.stdout == files["README.md"][2:4].decode()
        check_refusals(reader)

        (tmp_path / "name" / "README.md").write_bytes(b"edited")
        edited = reader.run("--json", "verify", "lab/tiny")
        assert edited.code == ReleaseChanged.exit_code, edited.stderr
        assert [fault["path"] for fault in json.loads(edited.stdout)["faults"]] == ["README.md"]


def check_refusals(reader: Daemon) -> None:
    """What must not go through, with the codes that scripts match on."""
    for code, kind, words in (
        (3, "UnknownReference", ("fetch", "nonsense")),
        (12, "NoSuchFile", ("cat", "lab/tiny", "absent")),
        (37, "ReleaseNotFound", ("fetch", "lab/absent")),
        (37, "ReleaseNotFound", ("fetch", "lab/tiny@9.9")),
        (45, "UnknownPetname", ("fetch", "nobody/tiny")),
        (62, "NoProvider", ("fetch", "sha256:" + "0" * 64)),
    ):
        done = reader.run("--json", *words)
        assert (done.code, done.error["kind"], done.stdout) == (code, kind, "")


def test_hf_download_reads_a_release_that_is_only_known(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    files = write_model(tmp_path / "data")
    with daemons() as all_of_them:
        publisher = all_of_them.start("publisher")
        published = publisher.publish(tmp_path / "data", "table", "2.0", "--kind", "dataset")
        reader = all_of_them.start("reader", bootstrap=[publisher])
        reader.json("trust", "add", published["publisher_id"], "--as", "lab")
        done = subprocess.run(
            [str(HF), "download", "lab/table", "--repo-type", "dataset",
             "--local-dir", str(tmp_path / "out")],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "HF_ENDPOINT": reader.gateway,
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "HF_HUB_DISABLE_XET": "1",
                "NO_PROXY": "127.0.0.1",
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + reader.log()
    assert contents(tmp_path / "out") == files
