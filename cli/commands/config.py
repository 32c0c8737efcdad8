"""`p2phub config`: settings, with their defaults and what they mean."""

from __future__ import annotations

from dataclasses import fields as dataclass_fields

import click

from p2phub.cli.options import Invocation, common, invocation
from p2phub.cli.render import note, out, out_json, table
from p2phub.config import Settings, about, parse_config, plain_value, setting_names
from p2phub.control.home_folder import read_config, read_settings, write_setting
from p2phub.errors import UsageError


@click.command()
@click.argument("name", required=False)
@click.argument("values", metavar="[VALUE]...", nargs=-1)
@click.option("--unset", is_flag=True, help="Back to the default.")
@common
@invocation
def config(run: Invocation, name: str | None, values: tuple[str, ...], unset: bool) -> None:
    """Show all settings, show one, or change one (a list takes several values).

    The daemon reads them when it starts.
    """
    if name is None:
        if unset:
            raise UsageError("--unset needs the name of a setting")
        _show_all(run)
        return
    entry = about(name)
    if unset or values:
        if unset and values:
            raise UsageError("give values or --unset, not both")
        write_setting(run.home, name, None if unset else _value(name, values))
        note("kept; the daemon reads it when it starts")
    value = plain_value(getattr(read_settings(run.home), name))
    if run.json:
        out_json({"name": name, "value": value, "form": entry.form, "help": entry.help})
    else:
        out(_text(value))


def _value(name: str, values: tuple[str, ...]) -> object:
    """What the words on the command line stand for in config.toml. Raises UsageError."""
    default = plain_value(_default(name))
    if isinstance(default, list):
        return list(values)
    if len(values) != 1:
        raise UsageError(f"{name} takes one value")
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(values[0], values[0])
    return values[0]


def _default(name: str) -> object:
    return next(entry.default for entry in dataclass_fields(Settings) if entry.name == name)


def _show_all(run: Invocation) -> None:
    settings = read_settings(run.home)
    kept = parse_config(read_config(run.home.config))
    rows = [
        {
            "name": name,
            "value": plain_value(getattr(settings, name)),
            "default": plain_value(_default(name)),
            "changed": name in kept,
            "form": about(name).form,
            "help": about(name).help,
        }
        for name in setting_names()
    ]
    if run.json:
        out_json(rows)
        return
    out(
        table(
            [
                (row["name"], _text(row["value"]), "*" if row["changed"] else "", row["help"])
                for row in rows
            ],
            ("setting", "value", "", "what it does"),
        )
    )
    note(f"* set in {run.home.config}")


def _text(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
