"""From a folder on one machine to a folder on another, by every kind of reference, and out through
the gateway.
"""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from tests.end_to_end.daemons import LOOPBACK, Daemon, command, publish, running
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
    with running(tmp_path / "a") as publisher:
        published = publish(publisher, tmp_path / "model", "tiny", "1.0")
        assert published["extra_bytes"] < 1 << 20  # the files themselves are not doubled
        with running(tmp_path / "b", *LOOPBACK, "--bootstrap", publisher.address) as reader:
            by_link = reader.run("fetch", published["reference"], "-o", str(tmp_path / "link"))
            assert contents(tmp_path / "link") == files
            assert by_link["signer"]["publisher_id"] == published["publisher_id"]
            assert by_link["signer"]["petname"] is None

            reader.run("trust", "add", published["publisher_id"], "--as", "lab")
            by_name = reader.run("fetch", "lab/tiny@1.0.0", "-o", str(tmp_path / "name"))
            assert contents(tmp_path / "name") == files and by_name["bytes_fetched"] < 100_000

            by_id = reader.run("fetch", published["content_id"], "-o", str(tmp_path / "id"))
            assert (
                contents(tmp_path / "id") == files
                and by_id["content_id"] == published["content_id"]
            )

            weights = files["weights/model.safetensors"]
            one = reader.run("fetch", f"sha256:{sha256(weights).hexdigest()}")
            assert Path(one["path"]).read_bytes() == weights

            shown = reader.run("show", "lab/tiny")
            digests = {file["path"]: file["sha256"] for file in shown["files"]}
            assert digests == {path: sha256(data).hexdigest() for path, data in files.items()}
            assert reader.run("verify", "lab/tiny")["faults"] == []
            part = command(reader.home, "cat", "lab/tiny", "README.md", "--range", "2-3")
            assert part.stdout == files["README.md"][2:4].decode()
            refusals(reader)


def refusals(reader: Daemon) -> None:
    """What must not go through, with the code that scripts match on."""
    for code, kind, words in (
        (3, "UnknownReference", ("fetch", "nonsense")),
        (12, "NoSuchFile", ("cat", "lab/tiny", "absent")),
        (37, "ReleaseNotFound", ("fetch", "lab/absent")),
        (37, "ReleaseNotFound", ("fetch", "lab/tiny@9.9")),
        (45, "UnknownPetname", ("fetch", "nobody/tiny")),
        (62, "NoProvider", ("fetch", "sha256:" + "0" * 64)),
    ):
        found, error = reader.refused(*words)
        assert (found, error["kind"]) == (code, kind), error


def test_hf_download_reads_a_release_that_is_only_known(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    files = write_model(tmp_path / "data")
    with running(tmp_path / "a") as publisher:
        published = publish(publisher, tmp_path / "data", "table", "2.0", kind="dataset")
        with running(tmp_path / "b", *LOOPBACK, "--bootstrap", publisher.address) as reader:
            reader.run("trust", "add", published["publisher_id"], "--as", "lab")
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
            assert done.returncode == 0, done.stderr + reader.log
    assert contents(tmp_path / "out") == files
