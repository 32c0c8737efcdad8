"""The demonstration: three daemons on this machine, a real model and a real dataset, every claim
checked.

    alpha   publishes            beta   fetches, so that there are two who have it
    gamma   fetches both by name from the two, while alpha is killed; then stock tools read from it

Whatever is not as it must be ends it with DemoFailed. A table at the end says what was seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from p2phub.cli.demo_material import FLIGHTS_COUNT, Material, prepare
from p2phub.cli.demo_nodes import DemoFailed, DemoNode, read_by_stock_tools
from p2phub.cli.render import duration, note
from p2phub.control.protocol import Json
from p2phub.digest import sha256
from p2phub.display import size_text
from p2phub.errors import P2phubError

ANNOUNCED_TIMEOUT_S: Final = 60.0
KILL_TRIES: Final = 5  # on a fast machine the fetch may be over before the kill lands
SIMILAR, DIFFERENT = 0.9429, 0.2569  # published for this model and these sentences


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table at the end."""

    step: str
    seen: tuple[str, ...]
    seconds: float


@dataclass(slots=True)
class Report:
    """What was seen so far."""

    rows: list[Row] = field(default_factory=list)

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        """Times a step; the yielded function takes what was seen."""
        note(f"\n{title}")
        seen: list[str] = []
        started = time.monotonic()
        yield seen.append
        seconds = time.monotonic() - started
        self.rows.append(Row(title, tuple(seen), seconds))
        for line in seen:
            note(f"  {line}")


def check(condition: bool, claim: str) -> None:
    """Raises DemoFailed unless the claim holds."""
    if not condition:
        raise DemoFailed(f"not so: {claim}")


class Demo:
    """One run, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._report = Report()
        self._alpha, self._beta, self._gamma = (
            DemoNode(name, folder) for name in ("alpha", "beta", "gamma")
        )
        self._passphrase = folder / "passphrase"
        self._publisher_id = ""
        self._material: Material | None = None

    def run(self) -> list[Row]:
        """All steps; the rows of the table. Raises DemoFailed."""
        try:
            self._start()
            published = self._publish()
            self._second_holder()
            self._third_node()
            self._refusals()
            self._next_version(published)
            self._stock_tools()
            with self._report.step("end the daemons") as saw:
                for node in (self._alpha, self._beta, self._gamma):
                    node.stop()
                saw("each within 5 s")
        finally:
            for node in (self._alpha, self._beta, self._gamma):
                node.kill()
        return self._report.rows

    def _start(self) -> None:
        with self._report.step("prepare a model and a dataset") as saw:
            self._material = prepare(self._folder)
            for name, place in (
                ("model", self._material.model),
                ("flights", self._material.flights),
            ):
                files = [path for path in place.rglob("*") if path.is_file()]
                total = sum(path.stat().st_size for path in files)
                saw(f"{name}: {len(files)} files, {size_text(total)}")
            self._passphrase.write_text("correct horse battery staple\n")
            self._passphrase.chmod(0o600)
        with self._report.step("start three daemons") as saw:
            self._alpha.start()
            self._beta.start(bootstrap=[self._alpha.address])
            self._gamma.start(bootstrap=[self._alpha.address, self._beta.address])
            saw("alpha, beta and gamma serve")

    def _publish_folder(self, folder: Path, name: str, version: str, kind: str) -> Json:
        result = self._alpha.run(
            *("publish", str(folder), "--name", name, "--version", version, "--kind", kind),
            *("--license", "Apache-2.0" if kind == "model" else "CC0-1.0"),
            *("--passphrase-file", str(self._passphrase)),
        )
        assert isinstance(result, dict)
        return result

    def _publish(self) -> Json:
        assert self._material is not None
        with self._report.step("alpha signs and publishes both") as saw:
            model = self._publish_folder(self._material.model, "minilm", "1.0", "model")
            flights = self._publish_folder(self._material.flights, "flights", "2013", "dataset")
            self._publisher_id = model["publisher_id"]
            check(flights["publisher_id"] == self._publisher_id, "one publisher signed both")
            extra = model["extra_bytes"] + flights["extra_bytes"]
            saw(f"files taken by {model['method']}, {size_text(extra)} more on disk")
            saw(f"content id {model['content_id'][:16]}…")
            self._wait_announced(self._alpha)
        return model

    def _second_holder(self) -> None:
        assert self._material is not None
        with self._report.step("beta fetches both by name") as saw:
            self._beta.run("trust", "add", self._publisher_id, "--as", "lab")
            fetched = 0
            for name in ("minilm", "flights"):
                fetched += self._beta.run("fetch", f"lab/{name}")["bytes_fetched"]
            saw(f"{size_text(fetched)} from alpha")
            self._wait_announced(self._beta)

    def _third_node(self) -> None:
        assert self._material is not None
        with self._report.step("gamma fetches both by name; alpha is killed half-way") as saw:
            for attempt in range(KILL_TRIES):
                self._gamma.run("trust", "add", self._publisher_id, "--as", "lab")
                model, killed_at = self._fetch_and_kill(
                    "lab/minilm", self._folder / f"got-{attempt}"
                )
                shares = {
                    peer["peer_id"]: peer["bytes"] for peer in model["peers"] if peer["bytes"]
                }
                both = {self._alpha.peer_id, self._beta.peer_id} <= set(shares)
                if killed_at is not None and both:
                    break
                note("  over before alpha could be killed: again, slower, with a new gamma")
                self._revive_alpha()
                self._renew_gamma()
            check(killed_at is not None and both, "both sent, and alpha was killed before the end")
            total = sum(shares.values())
            saw(f"killed at {killed_at:.0%}")
            saw(
                f"{shares[self._alpha.peer_id] / total:.0%} from alpha, "
                f"{shares[self._beta.peer_id] / total:.0%} from beta"
            )
            saw(f"{size_text(model['bytes_fetched'] / model['seconds'])}/s")
            self._check_signature(model, "minilm", "1.0")
            self._check_files(self._material.model, Path(model["path"]))
            flights = self._gamma.run(
                "fetch", "lab/flights", "-o", str(self._folder / "got-flights")
            )
            self._check_signature(flights, "flights", "2013")
            self._check_files(self._material.flights, Path(flights["path"]))
            for name in ("minilm", "flights"):
                check(not self._gamma.run("verify", f"lab/{name}")["faults"], f"{name} is whole")
            saw("signatures and every SHA-256 right")

    def _fetch_and_kill(self, reference: str, output: Path) -> tuple[Any, float | None]:
        """The result of a fetch, and at which part of it alpha was killed; None: it was over
        before.
        """
        killed_at: float | None = None

        def on_progress(progress: Json) -> None:
            nonlocal killed_at
            done, total = progress["done_bytes"], progress["total_bytes"]
            if killed_at is not None or progress["stage"] != "transfer" or not total:
                return
            if 0.2 <= done / total < 0.95:
                self._alpha.kill()
                killed_at = done / total

        note(f"  gamma$ p2phub fetch {reference} -o …/{output.name}")
        with self._gamma.connect() as daemon:
            result = daemon.call(
                "fetch", on_progress=on_progress, reference=reference, destination=str(output)
            )
        return result, killed_at

    def _renew_gamma(self) -> None:
        self._gamma.stop()
        self._gamma = DemoNode(f"{self._gamma.name}-again", self._folder)
        self._gamma.run("config", "down_rate", "30M")
        self._gamma.start(bootstrap=[self._alpha.address, self._beta.address])

    def _revive_alpha(self) -> None:
        self._alpha.kill()
        self._alpha.start(bootstrap=[self._beta.address])

    def _refusals(self) -> None:
        with self._report.step("what must be refused is refused") as saw:
            code, kind = self._gamma.refused("fetch", "lab/minilm@9.9")
            check(kind == "ReleaseNotFound", "an unsigned version is not found")
            saw(f"unsigned version: {kind} ({code})")
            code, kind = self._gamma.refused(
                "trust", "add", self._publisher_id[:-1], "--as", "short"
            )
            check(kind == "UnknownReference", "an id that is cut short is refused")
            saw(f"shortened publisher id: {kind} ({code})")
            code, kind = self._gamma.refused("daemon", "--no-mdns")
            check(kind == "DaemonAlreadyRunning", "one daemon for one home")
            saw(f"second daemon: {kind} ({code})")

    def _next_version(self, first: Json) -> None:
        assert self._material is not None
        with self._report.step("alpha is back, publishes 1.1; gamma updates") as saw:
            self._revive_alpha()
            model = self._publish_folder(self._material.model_next, "minilm", "1.1", "model")
            check(model["publisher_id"] == self._publisher_id, "the publisher is the same")
            self._wait_announced(self._alpha)
            output = self._folder / "got-next"
            result = self._gamma.run(
                "fetch", "lab/minilm@1.1", "-o", str(output), "--peer", self._alpha.address
            )
            self._check_signature(result, "minilm", "1.1")
            self._check_files(self._material.model_next, Path(result["path"]))
            part = result["bytes_fetched"] / result["data_size"]
            check(part < 0.05, f"an update of one tensor costs little, not {part:.1%}")
            saw(
                f"{size_text(result['bytes_fetched'])} fetched of {size_text(result['data_size'])} "
                f"({part:.1%}), {size_text(result['bytes_reused'])} from its own disk"
            )

    def _stock_tools(self) -> None:
        assert self._material is not None
        with self._report.step("huggingface_hub, safetensors, tokenizers read from gamma") as saw:
            cache = self._folder / "huggingface"
            read = read_by_stock_tools(self._gamma.gateway, cache, "model", "lab/minilm", "1.0")
            self._check_files(self._material.model, Path(read["folder"]))
            original = read_by_stock_tools("", cache, "folder", str(self._material.model))
            check(read["checksum"] == original["checksum"], "the embedding is the original's")
            check(abs(read["similar"] - SIMILAR) < 0.001, "similar sentences are as published")
            check(abs(read["different"] - DIFFERENT) < 0.001, "different ones, too")
            saw(f"similarity {read['similar']} and {read['different']}, as published")
            saw(f"embedding {read['checksum'][:12]}…")
        with self._report.step("huggingface_hub and pyarrow read the dataset") as saw:
            read = read_by_stock_tools(self._gamma.gateway, cache, "dataset", "lab/flights")
            check(read["rows"] == FLIGHTS_COUNT, "every flight is there")
            saw(f"{read['rows']:,} flights, {read['delay_mean_min']} min late on average")

    def _wait_announced(self, node: DemoNode) -> None:
        """Until other nodes remember what `node` holds."""
        deadline = time.monotonic() + ANNOUNCED_TIMEOUT_S
        while time.monotonic() < deadline:
            with node.connect() as daemon:
                if not daemon.call("status")["announcements_queued"]:
                    return
            time.sleep(0.2)
        raise DemoFailed(f"{node.name} could not announce what it holds")

    def _check_signature(self, fetched: Json, name: str, version: str) -> None:
        signer = fetched["signer"]
        check(signer is not None, f"{name} is signed")
        check(signer["publisher_id"] == self._publisher_id, f"alpha's keys signed {name}")
        check((signer["name"], signer["version"]) == (name, version), f"it is {name}@{version}")

    def _check_files(self, original: Path, got: Path) -> None:
        """The same files, by SHA-256, and none beside them."""
        check(_digests(got) == _digests(original), f"{got.name} is {original.name}, byte for byte")


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hex()
        for path in folder.rglob("*")
        if path.is_file()
    }


def run_demo(folder: Path) -> tuple[list[Row], str | None]:
    """The rows of the table, and what went wrong, or None."""
    demo = Demo(folder)
    try:
        return demo.run(), None
    except (DemoFailed, P2phubError) as error:
        return demo._report.rows, str(error)


def seconds_text(row: Row) -> str:
    return duration(row.seconds) if row.seconds >= 10 else f"{row.seconds:.1f} s"
