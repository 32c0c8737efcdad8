"""Reads the demonstration's model and dataset with huggingface_hub, safetensors, tokenizers and
pyarrow.

Nothing of p2phub is used: HF_ENDPOINT alone says where the bytes come from. The sentence embedding
is
the model's own, computed with numpy from the weights; its checksum and similarities are printed.

Source: BERT (Devlin et al. 2018), encoder with post-layer normalisation; sentence-transformers'
mean
pooling; the weights' own config.json.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy
import pyarrow.compute  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]
from huggingface_hub import HfApi, snapshot_download
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

Array = NDArray[Any]  # float32

SENTENCES = ("That is a happy person", "That is a very happy person", "Today is a sunny day")


def main(arguments: list[str]) -> None:
    if arguments[0] == "model":
        identity, revision = arguments[1:]
        folder = Path(snapshot_download(identity, revision=revision))
        sha = HfApi().model_info(identity, revision=revision).sha
        shown = {**embed(folder), "sha": sha, "folder": str(folder)}
    elif arguments[0] == "folder":
        shown = embed(Path(arguments[1]))
    else:
        folder = Path(snapshot_download(arguments[1], repo_type="dataset"))
        table = pyarrow.parquet.read_table(folder / "flights.parquet")
        delay = pyarrow.compute.mean(table["dep_delay"]).as_py()
        shown = {"rows": table.num_rows, "delay_mean_min": round(delay, 3), "folder": str(folder)}
    print(json.dumps(shown))


def embed(folder: Path) -> dict[str, object]:
    """Checksum and similarities of the sentences' embeddings."""
    vectors = numpy.stack([embedding(folder, sentence) for sentence in SENTENCES])
    return {
        "checksum": hashlib.sha256(vectors.tobytes()).hexdigest(),
        "similar": round(float(vectors[0] @ vectors[1]), 4),
        "different": round(float(vectors[0] @ vectors[2]), 4),
    }


def embedding(folder: Path, sentence: str) -> Array:
    """One sentence as a vector of length 1."""
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    hidden = encode(weights, config, tokenizer.encode(sentence).ids)
    pooled = hidden.mean(axis=0)
    result: Array = pooled / numpy.linalg.norm(pooled)
    return result


def encode(weights: dict[str, Array], config: dict[str, Any], ids: list[int]) -> Array:
    """The encoder's last layer, one row per token."""
    epsilon, heads = config["layer_norm_eps"], config["num_attention_heads"]
    table = "embeddings.{}_embeddings.weight"
    x = (
        weights[table.format("word")][ids]
        + weights[table.format("position")][: len(ids)]
        + weights[table.format("token_type")][0]
    )
    x = normalise(weights, "embeddings.LayerNorm", x, epsilon)
    for index in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{index}."
        attended = linear(
            weights, f"{layer}attention.output.dense", attend(weights, layer, x, heads)
        )
        x = normalise(weights, f"{layer}attention.output.LayerNorm", x + attended, epsilon)
        inner = gelu(linear(weights, f"{layer}intermediate.dense", x))
        outer = linear(weights, f"{layer}output.dense", inner)
        x = normalise(weights, f"{layer}output.LayerNorm", x + outer, epsilon)
    return x


def attend(weights: dict[str, Array], layer: str, x: Array, heads: int) -> Array:
    """Multi-head self-attention over all tokens."""
    count, width = x.shape
    query, key, value = (
        linear(weights, f"{layer}attention.self.{name}", x)
        .reshape(count, heads, width // heads)
        .transpose(1, 0, 2)
        for name in ("query", "key", "value")
    )
    scores = query @ key.transpose(0, 2, 1) / numpy.sqrt(numpy.float32(width // heads))
    scores = numpy.exp(scores - scores.max(axis=-1, keepdims=True))
    scores /= scores.sum(axis=-1, keepdims=True)
    result: Array = (scores @ value).transpose(1, 0, 2).reshape(count, width)
    return result


def linear(weights: dict[str, Array], name: str, x: Array) -> Array:
    result: Array = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    return result


def normalise(weights: dict[str, Array], name: str, x: Array, epsilon: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    scale = numpy.sqrt((centred**2).mean(axis=-1, keepdims=True) + numpy.float32(epsilon))
    result: Array = centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return result


def gelu(x: Array) -> Array:
    """Exact GELU; the error function by Abramowitz and Stegun 7.1.26, good to 1.5e-7."""
    z = numpy.abs(x) / numpy.sqrt(numpy.float32(2))
    t = 1 / (1 + 0.3275911 * z)
    factors = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
    series = sum(factor * t ** (power + 1) for power, factor in enumerate(factors))
    erf = numpy.sign(x) * (1 - series * numpy.exp(-z * z))
    result: Array = (x * (1 + erf) / 2).astype(numpy.float32)
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
