"""`export` and `import` against a real node."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2phub.errors import ContentError, UsageError
from tests.cli.running import Terminal
from tests.control.serving import controlled
from tests.node.real_nodes import node, publish, same_files, write_model

Capture = pytest.CaptureFixture[str]


async def test_a_release_goes_to_the_hubs_cache_and_comes_back_signed(
    tmp_path: Path, capsys: Capture
) -> None:
    model = write_model(tmp_path / "model")
    hub = tmp_path / "hub"
    (tmp_path / "passphrase").write_text("correct horse battery\n")
    async with node(tmp_path / "a") as a, controlled(a, tmp_path) as home:
        p2phub = Terminal(home, capsys)
        content_id = await publish(a, model)
        plain = await p2phub("export", content_id, str(tmp_path / "out"))
        assert (plain.code, plain.out) == (0, f"{tmp_path / 'out'}\n"), plain.err
        assert "more on disk" in plain.err
        assert same_files(model, tmp_path / "out")
        done = await p2phub("export", "hf", content_id, "--as", "me/x", "--into", str(hub))
        assert done.code == 0, done.err
        assert "hf finds it as me/x" in done.err
        signed = await p2phub(
            "import", "hf", "me/x", "--from", str(hub), "--name", "x", "--version", "1.0",
            "--passphrase-file", str(tmp_path / "passphrase"),
        )  # fmt: skip
        assert signed.code == 0, signed.err
        link, same_content_id = signed.out.split()
        assert "/x@1.0?peer=" in link
        assert "4 files compared" in signed.err
        unsigned = await p2phub("import", str(tmp_path / "out"), "--json")
        assert unsigned.json["content_id"] == same_content_id == content_id
        blob = Path(done.out.strip()) / "README.md"
        Path(blob.resolve()).chmod(0o644)
        blob.write_text("# A mxdel\n")
        wrong = await p2phub("import", "hf", "me/x", "--from", str(hub), "--json")
        assert (wrong.code, wrong.error["kind"]) == (ContentError.exit_code, "ContentError")


async def test_half_a_name_is_refused(tmp_path: Path, capsys: Capture) -> None:
    async with node(tmp_path / "a") as a, controlled(a, tmp_path) as home:
        p2phub = Terminal(home, capsys)
        for arguments in (
            ("import", str(tmp_path), "--name", "x"),
            ("import", "elsewhere", "name"),
            ("export", "lab/x", str(tmp_path), "--as", "x"),
        ):
            assert (await p2phub(*arguments)).code == 2


GARBAGE = [
    (("import", "hf"), "hf ORG/NAME"),
    (("import", "ollama"), "ollama NAME:TAG"),
    (("import", "hf", "a/b/c"), "no name of a repository"),
    (("import", "hf", "../../etc"), "no name of a repository"),
    (("import", "hf", "a b"), "no name of a repository"),
    (("import", "ollama", "../x"), "no name of ollama's"),
    (("import", "ollama", ""), "no name of ollama's"),
    (("import", "ollama", "a/b/c/d"), "no name of ollama's"),
    (("export", "hf", "ID", "--as", "bad name"), "no name of a repository"),
    (("export", "hf", "ID", "--as", "../evil"), "no name of a repository"),
    (("export", "hf", "ID", "--as", "/"), "no name of a repository"),
]


async def test_names_that_no_tool_knows_are_refused_and_leave_nothing(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    async with node(tmp_path / "a") as a, controlled(a, tmp_path) as home:
        p2phub = Terminal(home, capsys)
        content_id = await publish(a, write_model(tmp_path / "model"))
        for words, said in GARBAGE:
            done = await p2phub(*(content_id if word == "ID" else word for word in words))
            assert (done.code, done.out) == (UsageError.exit_code, ""), (words, done.err)
            assert said in done.err, words
        absent = await p2phub("import", str(tmp_path / "nowhere"))
        assert "There is no such file or folder" in absent.err
        not_a_folder = await p2phub("export", content_id, str(tmp_path / "model" / "README.md"))
        assert "is no folder" in not_a_folder.err
        assert not (tmp_path / "hub").exists()
        assert not (tmp_path / "ollama").exists()


async def test_an_export_links_the_users_own_files_only_where_asked(
    tmp_path: Path, capsys: Capture
) -> None:
    async with node(tmp_path / "a") as a, controlled(a, tmp_path) as home:
        p2phub = Terminal(home, capsys)
        content_id = await publish(a, write_model(tmp_path / "model"))
        if not a._store.usage().adopted_bytes:
            pytest.skip("this file system shares blocks, so nothing is used in place")
        words = ("export", content_id, str(tmp_path / "out"))
        assert "copied" not in (await p2phub(*words)).err
        assert (tmp_path / "out" / "weights.bin").stat().st_nlink == 1
        linked = await p2phub("export", content_id, str(tmp_path / "linked"), "--link", "hardlink")
        assert "hardlink" in linked.err
        assert (tmp_path / "linked" / "weights.bin").stat().st_nlink == 2
