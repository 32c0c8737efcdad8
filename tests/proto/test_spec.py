"""The specification says what the code does: its limits, its example, its list of names."""

from __future__ import annotations

import json
import re

import pytest

from p2phub.proto import limits, messages, protocols
from tests.proto.write_vectors import VECTORS
from tests.sources import ROOT

SPEC = (ROOT / "proto" / "SPEC.md").read_text(encoding="utf-8")
LIMITS = re.findall(r"^\| `([A-Z_]+)` \| (\d+) \|", SPEC, re.MULTILINE)


@pytest.mark.parametrize(("name", "value"), LIMITS)
def test_a_limit_in_the_specification_is_the_one_in_force(name: str, value: str) -> None:
    assert getattr(limits, name) == int(value)


def test_all_limits_of_the_formats_are_listed() -> None:
    assert len(LIMITS) > 40


def test_the_example_is_the_vector() -> None:
    documents = json.loads((VECTORS / "documents.json").read_text(encoding="ascii"))
    (record,) = [row for row in documents["good"] if row["kind"] == "object"]
    lines = SPEC.partition("    86   ")[2].partition("\n\n")[0].splitlines()[1:]
    shown = ["86", *(re.split(r"  +", line.strip() + "  ")[0] for line in lines)]
    # The last line shows key and value side by side.
    assert "".join(shown).replace(" ", "") + "01" == record["hex"]
    assert record["digest"] in SPEC


@pytest.mark.parametrize(
    "name",
    [protocols.KADEMLIA, protocols.SWARM, protocols.CHUNK, protocols.META, protocols.SPAN],
)
def test_a_protocol_name_is_in_the_specification(name: str) -> None:
    assert f"`{name}`" in SPEC


def test_every_message_is_in_the_specification() -> None:
    sample = json.loads((VECTORS / "messages.json").read_text(encoding="ascii"))
    tags = {row["value"][0] for row in sample["good"]}
    assert len(tags) == len(messages.Message.__args__)
    for tag in tags:
        assert f'["{tag}"' in SPEC


def test_sections_that_code_refers_to_exist() -> None:
    sections = {int(number) for number in re.findall(r"^## (\d+) ", SPEC, re.MULTILINE)}
    for folder in ("proto", "p2phub", "cli"):
        for path in (ROOT / folder).rglob("*.py"):
            text = " ".join(path.read_text(encoding="utf-8").split())
            for found in re.findall(r"SPEC\.md,? sections? ([\d., and to]+)", text):
                for number in re.findall(r"\d+", found.partition(".")[0]):
                    assert int(number) in sections, path
