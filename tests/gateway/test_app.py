"""The Hub's routes, asked over a real port: shapes, headers, ranges, refusals."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
import trio

from p2phub.proto.content_id import content_id_text
from tests.gateway.serving import PUBLISHER, following, publish, serving, write_model
from tests.memory_node import MemoryNode
from tests.memory_world import World

WEIGHTS = "/lab/tiny/resolve/main/weights/model.safetensors"


async def test_a_file_that_is_only_known_is_served_byte_for_byte(tmp_path: Path) -> None:
    world = World()
    files = write_model(tmp_path)
    commit = await publish(MemoryNode(world), tmp_path, "tiny")
    async with serving(await following(world)) as served:
        for path, data in files.items():
            quoted = path.replace(" ", "%20").replace("á", "%C3%A1")
            reply = await served.ask(f"/lab/tiny/resolve/{commit}/{quoted}")
            assert (reply.status, reply.body) == (200, data)
            assert reply.headers["etag"] == f'"{sha256(data).hexdigest()}"'
            assert reply.headers["x-repo-commit"] == commit
            assert reply.headers["content-length"] == str(len(data))


async def test_head_says_all_that_clients_read_before_the_bytes_and_fetches_none(
    tmp_path: Path,
) -> None:
    world = World()
    files = write_model(tmp_path)
    commit = await publish(MemoryNode(world), tmp_path, "tiny")
    node = await following(world)
    async with serving(node) as served:
        reply = await served.ask(WEIGHTS, "HEAD")
    digest = sha256(files["weights/model.safetensors"]).hexdigest()
    wanted = {
        "content-length": "300000",
        "etag": f'"{digest}"',
        "x-linked-etag": f'"{digest}"',
        "x-linked-size": "300000",
        "x-repo-commit": commit,
        "accept-ranges": "bytes",
        "content-type": "application/octet-stream",
    }
    assert reply.status == 200 and reply.body == b""
    assert wanted.items() <= reply.headers.items()
    assert not {"x-xet-hash", "location", "content-encoding"} & set(reply.headers)
    assert not node.shelf.chunks


async def test_what_follows_a_request_that_is_refused_is_not_our_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(await following(World())) as served:
        for _ in range(20):
            await served.send_raw(
                b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 4\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n"
            )
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    "path", ["config.json", "empty.txt", "no.such", "weights/model.safetensors"]
)
async def test_a_connection_is_closed_after_the_reply_where_the_client_wants_it(
    tmp_path: Path, path: str
) -> None:
    world = World()
    write_model(tmp_path)
    await publish(MemoryNode(world), tmp_path, "tiny")
    async with serving(await following(world)) as served, await served.connect() as stream:
        head = f"GET /lab/tiny/resolve/main/{path} HTTP/1.1\r\nHost: localhost\r\n"
        await stream.send_all(f"{head}Connection: close\r\n\r\n".encode())
        with trio.fail_after(5):
            while await stream.receive_some():
                pass


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=65535-65536", 65_535, 65_537),
        ("bytes=100000-", 100_000, 300_000),
        ("bytes=299999-300000", 299_999, 300_000),  # one past the end, as hf-hub asks
        ("bytes=0-99999999999", 0, 300_000),
        ("bytes=-5", 299_995, 300_000),
        ("bytes=-999999999", 0, 300_000),
    ],
)
async def test_a_range_is_answered_with_just_its_bytes(
    tmp_path: Path, header: str, start: int, stop: int
) -> None:
    world = World()
    data = write_model(tmp_path)["weights/model.safetensors"]
    await publish(MemoryNode(world), tmp_path, "tiny")
    async with serving(await following(world)) as served:
        reply = await served.ask(WEIGHTS, Range=header)
    assert reply.status == 206 and reply.body == data[start:stop]
    assert reply.headers["content-range"] == f"bytes {start}-{stop - 1}/300000"
    assert reply.headers["content-length"] == str(stop - start)


async def test_a_range_fetches_only_the_chunks_it_touches(tmp_path: Path) -> None:
    world = World()
    write_model(tmp_path)
    await publish(MemoryNode(world), tmp_path, "tiny")
    node = await following(world)
    async with serving(node) as served:
        await served.ask(WEIGHTS, Range="bytes=150000-150001")
    assert len(node.shelf.chunks) == 1


@pytest.mark.parametrize("header", ["bytes=300000-", "bytes=300000-300001", "bytes=-0"])
async def test_a_range_past_the_end_is_416_with_the_size(tmp_path: Path, header: str) -> None:
    world = World()
    write_model(tmp_path)
    await publish(MemoryNode(world), tmp_path, "tiny")
    async with serving(await following(world)) as served:
        reply = await served.ask(WEIGHTS, Range=header)
    assert reply.status == 416 and reply.headers["content-range"] == "bytes */300000"
    assert "x-error-code" in reply.headers


@pytest.mark.parametrize(
    "header", ["bytes=5-1", "bytes=a-b", "lines=0-1", "bytes=0-1,4-5", "bytes=-"]
)
async def test_a_range_that_makes_no_sense_is_ignored(tmp_path: Path, header: str) -> None:
    world = World()
    data = write_model(tmp_path)["weights/model.safetensors"]
    await publish(MemoryNode(world), tmp_path, "tiny")
    async with serving(await following(world)) as served:
        reply = await served.ask(WEIGHTS, Range=header)
    assert (reply.status, reply.body) == (200, data)


async def test_a_file_the_client_has_is_not_sent_again(tmp_path: Path) -> None:
    world = World()
    data = write_model(tmp_path)["config.json"]
    await publish(MemoryNode(world), tmp_path, "tiny")
    async with serving(await following(world)) as served:
        etag = f'"{sha256(data).hexdigest()}"'
        path = "/lab/tiny/resolve/main/config.json"
        assert (await served.ask(path, If_None_Match=etag)).status == 304
        assert (await served.ask(path, If_None_Match='"other"')).body == data
        partial = await served.ask(path, Range="bytes=0-0", If_Range='"other"')
        assert partial.status == 200


async def test_the_release_is_described_as_the_hub_does(tmp_path: Path) -> None:
    world = World()
    files = write_model(tmp_path)
    commit = await publish(MemoryNode(world), tmp_path, "tiny")
    async with serving(await following(world)) as served:
        for path in ("/api/models/lab/tiny", "/api/models/lab/tiny/revision/main"):
            info = json.loads((await served.ask(path)).body)
            assert (info["id"], info["sha"]) == ("lab/tiny", commit)
            assert {s["rfilename"] for s in info["siblings"]} == set(files)
            assert info["tags"] == ["tiny", "license:mit"]
        blobs = json.loads((await served.ask("/api/models/lab/tiny?blobs=True")).body)
        sizes = {s["rfilename"]: s["lfs"]["size"] for s in blobs["siblings"]}
        assert sizes == {path: len(data) for path, data in files.items()}
        found = json.loads((await served.ask("/api/models/lab/tiny/refs")).body)
        assert found["branches"] == [
            {"name": "main", "ref": "refs/heads/main", "targetCommit": commit}
        ]
        assert [tag["name"] for tag in found["tags"]] == ["1.0"]


async def test_the_tree_lists_files_and_folders(tmp_path: Path) -> None:
    world = World()
    files = write_model(tmp_path)
    commit = await publish(MemoryNode(world), tmp_path, "tiny")
    async with serving(await following(world)) as served:
        tree = f"/api/models/lab/tiny/tree/{commit}"
        everything = json.loads((await served.ask(f"{tree}?recursive=true&expand=false")).body)
        assert {e["path"] for e in everything if e["type"] == "file"} == set(files)
        assert {e["path"] for e in everything if e["type"] == "directory"} == {
            "weights",
            "weights/extra",
        }
        for entry in everything:
            assert len(entry["oid"]) == 40
            if entry["type"] == "file":
                assert entry["lfs"]["oid"] == sha256(files[entry["path"]]).hexdigest()
                assert entry["size"] == entry["lfs"]["size"] == len(files[entry["path"]])
        top = json.loads((await served.ask(tree)).body)
        assert [e["path"] for e in top] == ["README.md", "config.json", "empty.txt", "weights"]
        inner = json.loads((await served.ask(f"{tree}/weights")).body)
        assert [e["path"] for e in inner] == ["weights/extra", "weights/model.safetensors"]
        absent = await served.ask(f"{tree}/additional_chat_templates")
        assert (absent.status, absent.headers["x-error-code"]) == (404, "EntryNotFound")


async def test_paths_info_leaves_out_what_is_not_there(tmp_path: Path) -> None:
    world = World()
    write_model(tmp_path)
    await publish(MemoryNode(world), tmp_path, "tiny")
    async with serving(await following(world)) as served:
        path = "/api/models/lab/tiny/paths-info/main"
        form = "application/x-www-form-urlencoded"
        body = b"paths=config.json&paths=weights&paths=absent&expand=false"
        reply = await served.ask(path, "POST", body, Content_Type=form)
        assert [(e["path"], e["type"]) for e in json.loads(reply.body)] == [
            ("config.json", "file"),
            ("weights", "directory"),
        ]
        assert (await served.ask(path)).status == 405
        assert (await served.ask(path, "POST", body, Content_Type="text/plain")).status == 415
        assert (await served.ask(path, "POST", body, Content_Type="application/json")).status == 415


async def test_datasets_and_models_are_told_apart(tmp_path: Path) -> None:
    world = World()
    files = write_model(tmp_path)
    await publish(MemoryNode(world), tmp_path, "table", kind="dataset")
    async with serving(await following(world)) as served:
        assert (await served.ask("/api/datasets/lab/table")).status == 200
        reply = await served.ask("/datasets/lab/table/resolve/main/config.json")
        assert reply.body == files["config.json"]
        wrong = await served.ask("/api/models/lab/table")
        assert (wrong.status, wrong.headers["x-error-code"]) == (404, "RepoNotFound")
        assert "is a dataset" in wrong.headers["x-error-message"]
        assert (await served.ask("/api/spaces/lab/table")).status == 404


async def test_a_version_a_commit_and_main_are_revisions(tmp_path: Path) -> None:
    world = World()
    publisher = MemoryNode(world)
    (tmp_path / "old").mkdir()
    write_model(tmp_path / "old", seed=1)
    old = await publish(publisher, tmp_path / "old", "tiny", "1.0")
    (tmp_path / "new").mkdir()
    write_model(tmp_path / "new", seed=2)
    new = await publish(publisher, tmp_path / "new", "tiny", "1.1")
    async with serving(await following(world)) as served:
        for revision, commit in (
            ("main", new), ("HEAD", new), ("refs%2Fheads%2Fmain", new), ("1.1", new),
            ("1.0", old), ("v1.0", old), (old, old), (new, new),
        ):  # fmt: skip
            reply = await served.ask(f"/api/models/lab/tiny/revision/{revision}")
            assert (reply.status, json.loads(reply.body)["sha"]) == (200, commit), revision
        for revision in ("9.9", "nonsense", "0" * 40, "refs%2Fpr%2F1"):
            reply = await served.ask(f"/api/models/lab/tiny/revision/{revision}")
            assert (reply.status, reply.headers["x-error-code"]) == (404, "RevisionNotFound"), (
                revision
            )


async def test_a_release_is_found_by_its_content_id_and_by_its_publisher_id(tmp_path: Path) -> None:
    world = World()
    files = write_model(tmp_path)
    commit = await publish(MemoryNode(world), tmp_path, "tiny")
    content_id = content_id_text(next(iter(world.releases)))
    async with serving(MemoryNode(world, "12D3KooWStranger")) as served:
        for identity in (content_id, f"{PUBLISHER}/tiny"):
            info = json.loads((await served.ask(f"/api/models/{identity}")).body)
            assert (info["id"], info["sha"]) == (identity, commit)
            path = f"/{identity}/resolve/{commit}/config.json"
            assert (await served.ask(path)).body == files["config.json"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/models/lab/absent", 404, "RepoNotFound"),
        ("/api/models/nobody/tiny", 404, "RepoNotFound"),
        ("/api/models/lab/..", 404, "RepoNotFound"),
        ("/api/models/tiny", 404, "RepoNotFound"),
        ("/lab/tiny/resolve/main/absent.bin", 404, "EntryNotFound"),
        ("/lab/tiny/resolve/main/../../etc/passwd", 404, "EntryNotFound"),
        ("/lab/tiny/resolve/main/weights", 404, "EntryNotFound"),
        ("/lab/tiny/resolve/9.9/config.json", 404, "RevisionNotFound"),
        ("/api/agent-harnesses", 404, "NotFound"),
        ("/api/models/lab/tiny/tree/main?cursor=-1", 400, "BadRequest"),
        ("/lab/tiny/resolve/main/%FF", 400, "BadRequest"),
        ("/lab/tiny/resolve/main/a%00b", 400, "BadRequest"),
    ],
)
async def test_every_refusal_has_its_code(
    tmp_path: Path, path: str, status: int, code: str
) -> None:
    world = World()
    write_model(tmp_path)
    await publish(MemoryNode(world), tmp_path, "tiny")
    async with serving(await following(world)) as served:
        reply = await served.ask(path)
    assert (reply.status, reply.headers["x-error-code"]) == (status, code)
    assert reply.headers["x-error-message"]


@pytest.mark.parametrize(
    "path", ["/api/repos/create", "/api/models/lab/tiny/preupload/main", "/api/validate-yaml"]
)
async def test_an_upload_is_told_that_nothing_is_written_here(path: str) -> None:
    async with serving(MemoryNode(World())) as served:
        reply = await served.ask(path, "POST", b"{}")
    assert (reply.status, reply.headers["x-error-code"]) == (405, "MethodNotAllowed")
    assert "p2phub publish" in reply.headers["x-error-message"]


async def test_a_missing_file_still_names_the_commit(tmp_path: Path) -> None:
    world = World()
    write_model(tmp_path)
    commit = await publish(MemoryNode(world), tmp_path, "tiny")
    async with serving(await following(world)) as served:
        reply = await served.ask("/lab/tiny/resolve/main/absent.bin", "HEAD")
    assert (reply.status, reply.headers["x-repo-commit"]) == (404, commit)


async def test_bytes_that_nobody_has_are_a_503_that_says_who_was_asked(tmp_path: Path) -> None:
    world = World()
    write_model(tmp_path)
    await publish(MemoryNode(world), tmp_path, "tiny")
    world.lost = set(world.chunks)
    async with serving(await following(world)) as served:
        reply = await served.ask(WEIGHTS)
    assert (reply.status, reply.headers["x-error-code"]) == (503, "NoProvider")
    assert "none of 2 peers" in reply.headers["x-error-message"]


async def test_bytes_that_end_early_close_the_connection(tmp_path: Path) -> None:
    world = World()
    data = write_model(tmp_path)["weights/model.safetensors"]
    await publish(MemoryNode(world), tmp_path, "tiny")
    release = next(iter(world.releases.values()))
    world.lost = {release.chunks["weights/model.safetensors"][2]}
    async with serving(await following(world)) as served:
        request = f"GET {WEIGHTS} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        head, _, body = (await served.send_raw(request.encode())).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert body == data[: 2 * 65_536]
        assert served.gateway._files.counters.files_cut_short == 1


async def test_a_client_that_goes_away_ends_the_fetch(tmp_path: Path) -> None:
    world = World(gate=trio.Event())
    write_model(tmp_path)
    await publish(MemoryNode(world), tmp_path, "tiny")
    node = await following(world)
    async with serving(node) as served:
        async with await served.connect() as stream:
            await stream.send_all(f"GET {WEIGHTS} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            with trio.fail_after(5):
                while node.readers == 0:
                    await trio.lowlevel.checkpoint()
        with trio.fail_after(5):
            while node.readers:
                await trio.lowlevel.checkpoint()


async def test_an_identity_that_is_known_but_unreachable_is_refused_within_the_clients_patience(
    tmp_path: Path,
) -> None:
    world = World(reachable=False)
    async with serving(await following(world)) as served:
        reply = await served.ask("/api/models/lab/tiny")
    assert (reply.status, reply.headers["x-error-code"]) == (404, "RepoNotFound")
    assert "no peer" in reply.headers["x-error-message"]


async def test_the_page_the_list_and_the_metrics_show_releases(tmp_path: Path) -> None:
    world = World()
    write_model(tmp_path)
    await publish(MemoryNode(world), tmp_path, "tiny")
    node = await following(world)
    async with serving(node) as served:
        shown = (await served.ask("/")).body.decode()
        assert "lab/tiny@1.0" in shown and "known" in shown
        listed = json.loads((await served.ask("/api/models?search=tin")).body)
        assert [row["id"] for row in listed] == ["lab/tiny"]
        assert json.loads((await served.ask("/api/datasets")).body) == []
        await served.ask(WEIGHTS)
        metrics = (await served.ask("/metrics")).body.decode()
        assert "p2phub_gateway_sent_bytes_total 300000" in metrics
        assert 'p2phub_gateway_replies_total{status="200"} 4' in metrics
        assert (await served.ask("/healthz")).body == b"ok\n"


async def test_a_tree_of_many_files_is_paged_behind_the_first_ten_thousand(tmp_path: Path) -> None:
    world = World()
    for index in range(10_010):
        (tmp_path / f"{index:05}").touch()
    await publish(MemoryNode(world), tmp_path, "wide")
    async with serving(await following(world)) as served:
        first = await served.ask("/api/models/lab/wide/tree/main?recursive=true")
        assert len(json.loads(first.body)) == 10_000
        link = first.headers["link"]
        assert link.endswith('; rel="next"')
        rest = await served.ask(link[link.index("/api") : link.index(">")])
        assert len(json.loads(rest.body)) == 10 and "link" not in rest.headers


async def test_a_hundred_requests_on_one_connection_are_answered(tmp_path: Path) -> None:
    world = World()
    write_model(tmp_path)
    await publish(MemoryNode(world), tmp_path, "tiny")
    async with serving(await following(world)) as served:
        request = b"HEAD /lab/tiny/resolve/main/config.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
        async with await served.connect() as stream:
            for _ in range(100):
                await stream.send_all(request)
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
