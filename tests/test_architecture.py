"""The house keeps its floors: imports go down, each dependency has one home, core is pure.

Every rule is a function from modules to faults, and is also shown a planted fault, since a rule
that cannot fail proves nothing.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator

import pytest

from tests.sources import (
    Module,
    imported_names,
    is_within,
    modules_in,
    package_modules,
    planted,
)

Rule = Callable[[Iterable[Module]], list[str]]

FLOORS = {
    "p2phub": 0,  # the package front alone; what lies in it is listed below
    "p2phub.errors": 0,
    "p2phub.digest": 0,
    "p2phub.proto": 0,
    "p2phub.config": 0,
    "p2phub.paths": 0,
    "p2phub.durable": 0,
    "p2phub.display": 0,
    "p2phub.core": 1,
    "p2phub.store": 2,
    "p2phub.net": 2,
    "p2phub.trust": 2,
    "p2phub.node": 3,
    "p2phub.gateway": 4,
    "p2phub.control": 4,
    "p2phub.daemon": 5,
    "p2phub.cli": 6,
}

# Inside floor 0 each part may import those before it, so that there is no circle.
FOUNDATION = [
    "p2phub.errors", "p2phub.digest", "p2phub.proto", "p2phub.config", "p2phub.paths",
    "p2phub.durable", "p2phub.display",
]  # fmt: skip

# The demonstration lays out and reads what is its own, and alone uses the extra "demo".
DEMO = "p2phub.cli.demo"
DEMO_READER = "p2phub.cli.demo_reader"  # a program that knows nothing of p2phub
DEMO_MATERIAL = "p2phub.cli.demo_material"
DEMO_NODES = "p2phub.cli.demo_nodes"

# Where each package that is not ours may be imported. One that is missing here has no home.
HOMES = {
    "base58": ["p2phub.net"],  # peer ids as text
    "blake3": ["p2phub.digest"],
    "click": ["p2phub.cli"],
    "cryptography": ["p2phub.trust", "p2phub.net"],  # net: peer keys and the lanes' certificates
    "google": ["p2phub.net"],  # protobuf, for libp2p's own messages
    "hypercorn": ["p2phub.gateway"],
    "ifaddr": ["p2phub.net"],
    "libp2p": ["p2phub.net"],
    "msgpack": ["p2phub.proto.codec"],
    "packaging": ["p2phub.core.trust", "p2phub.proto"],  # PEP 440, a pure function
    "pyfastcdc": ["p2phub.store"],
    "securesystemslib": ["p2phub.trust"],
    "trio": ["p2phub.net", "p2phub.node", "p2phub.gateway", "p2phub.control", "p2phub.daemon"],
    "tuf": ["p2phub.trust"],
    "zeroconf": ["p2phub.net"],
    # What is asked for by the extra "demo":
    "huggingface_hub": [DEMO_READER],
    "numpy": [DEMO_READER],
    "pyarrow": [DEMO_MATERIAL, DEMO_READER],
    "safetensors": [DEMO_READER],
    "tokenizers": [DEMO_READER],
    # Of the standard library, what must not spread:
    "hashlib": ["p2phub.digest", "p2phub.trust", DEMO_READER],  # trust: what TUF itself asks for
    "sqlite3": ["p2phub.store", "p2phub.trust"],  # trust: the floor is a database of its own
    "ssl": ["p2phub.net"],
}

PURE = ["p2phub.core", "p2phub.proto"]
IMPURE_MODULES = {
    "asyncio", "concurrent", "fcntl", "glob", "io", "logging", "mmap", "multiprocessing", "os",
    "pathlib", "secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "ssl",
    "subprocess", "sys", "tempfile", "threading", "time", "trio", "uuid",
}  # fmt: skip
IMPURE_CALLS = {"open", "print", "input", "breakpoint", "exec", "eval"}
CLOCK_READS = {"now", "today", "utcnow"}

# What a failed disk may refuse, reading included: XFS refuses even fstat after a forced shutdown.
DISK_CALLS = {
    "chmod", "copy_file_range", "fchmod", "fdatasync", "fstat", "fsync", "ftruncate", "link",
    "listdir", "lseek", "lstat", "mkdir", "open", "pread", "preadv", "pwrite", "pwritev",
    "readlink", "rename", "replace", "rmdir", "scandir", "stat", "statvfs", "symlink",
    "unlink", "utime",
}  # fmt: skip

# What the simulator may stand on: the floors up to core, but neither settings nor file names.
SIMULATION_GROUND = ["p2phub.core", "p2phub.proto", "p2phub.errors", "p2phub.digest"]

# What the command line must not pull in, however deep: they cost it its quick start.
HEAVY = ["trio", "libp2p", "hypercorn", "zeroconf"]


def part_of(name: str) -> str | None:
    """The longest entry of FLOORS that a dotted name lies in; None for names that are not ours."""
    parts = [part for part in FLOORS if part != "p2phub" and is_within(name, part)]
    if parts:
        return max(parts, key=len)
    return "p2phub" if name == "p2phub" or name.startswith("p2phub.") else None


def imports_that_do_not_go_down(modules: Iterable[Module]) -> list[str]:
    faults = []
    for module in modules:
        here = part_of(module.name)
        assert here is not None, f"{module.name} is on no floor"
        if here == "p2phub" and module.name != "p2phub":
            faults.append(f"{module.path}: {module.name} is on no floor; name it in FLOORS")
            continue
        for node, name in imported_names(module):
            there = part_of(name)
            if there is None or there in (here, "p2phub"):
                continue
            if FLOORS[here] == FLOORS[there] == 0 and here in FOUNDATION:
                down = FOUNDATION.index(there) < FOUNDATION.index(here)
            else:
                down = FLOORS[there] < FLOORS[here]
            if not down:
                faults.append(f"{module.at(node)}: {module.name} imports {name}")
    return faults


def dependencies_away_from_home(modules: Iterable[Module]) -> list[str]:
    faults = []
    for module in modules:
        for node, name in imported_names(module):
            top = name.partition(".")[0]
            homes = HOMES.get(top)
            if homes is None and top != "p2phub" and top not in sys.stdlib_module_names:
                faults.append(f"{module.at(node)}: {top} has no home in HOMES")
            elif homes is not None and not any(is_within(module.name, home) for home in homes):
                faults.append(f"{module.at(node)}: {top} belongs in {' or '.join(homes)}")
    return faults


def relative_or_computed_imports(modules: Iterable[Module]) -> list[str]:
    """Imports that this file could not follow. The command line may load a command by its name."""
    faults = []
    for module in modules:
        for node in module.nodes():
            if isinstance(node, ast.ImportFrom) and node.level:
                faults.append(f"{module.at(node)}: relative import")
            elif (
                isinstance(node, ast.Call)
                and called_name(node) in ("import_module", "__import__")
                and not is_within(module.name, "p2phub.cli")
            ):
                faults.append(f"{module.at(node)}: import of a computed name")
    return faults


def called_name(call: ast.Call) -> str:
    """The last word of what is called: `open` of `io.open(...)`; empty for anything else."""
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def impurities(modules: Iterable[Module]) -> list[str]:
    """Waiting, clocks, global randomness and I/O in floors that must have none."""
    faults = []
    for module in modules:
        if not any(is_within(module.name, part) for part in PURE):
            continue
        for node, name in imported_names(module):
            top = name.partition(".")[0]
            if top in IMPURE_MODULES or is_within(name, "p2phub.durable"):
                faults.append(f"{module.at(node)}: import of {name}")
            if name.startswith("random.") and name != "random.Random":
                faults.append(f"{module.at(node)}: {name} is global randomness")
        for node in module.nodes():
            if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
                faults.append(f"{module.at(node)}: waits")
            elif isinstance(node, ast.Call):
                if isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
                    faults.append(f"{module.at(node)}: calls {node.func.id}")
                elif isinstance(node.func, ast.Attribute) and node.func.attr in CLOCK_READS:
                    faults.append(f"{module.at(node)}: reads a clock")
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "random"
                and node.attr != "Random"
            ):
                faults.append(f"{module.at(node)}: random.{node.attr} is global randomness")
    return faults


def prints(modules: Iterable[Module]) -> list[str]:
    """Writing for a person outside the command line; the daemon has its one ready line."""
    faults = []
    for module in modules:
        if is_within(module.name, "p2phub.cli") or module.name == "p2phub.daemon":
            continue
        for node in module.nodes():
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "print"
            ):
                faults.append(f"{module.at(node)}: prints")
            elif (
                isinstance(node, ast.Attribute)
                and node.attr in ("stdout", "stderr")
                and isinstance(node.value, ast.Name)
                and node.value.id == "sys"
            ):
                faults.append(f"{module.at(node)}: takes sys.{node.attr}")
    return faults


def file_names(modules: Iterable[Module]) -> list[str]:
    """Names of files in code, outside paths.py: `folder / "name"`, Path("name"), joinpath("name").

    A name derived from another, as with_name and with_suffix do for drafts, is not a new name; nor
    are the demonstration's, which lie in a folder of its own and in what others published.
    """
    faults = []
    for module in modules:
        if module.name in ("p2phub.paths", DEMO, DEMO_READER, DEMO_MATERIAL, DEMO_NODES):
            continue
        for node in module.nodes():
            is_joined = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
            if (is_joined and is_text(node.right)) or (
                isinstance(node, ast.Call)
                and called_name(node) in ("Path", "PurePosixPath", "joinpath")
                and any(is_text(argument) for argument in node.args)
            ):
                faults.append(f"{module.at(node)}: names a file; let p2phub.paths do it")
    return faults


def is_text(node: ast.expr) -> bool:
    """Whether an expression is text written in place. `"."` and `".."` name no file."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and node.value not in (".", "..")
    return isinstance(node, ast.JoinedStr)


def unguarded_disk_calls(modules: Iterable[Module]) -> list[str]:
    """Calls of the store on the disk whose refusal would leave it as a bare OSError.

    They stand in a `try` that knows OSError or in `with failures(...)`; or in FileSystem's methods.
    """
    faults: list[str] = []

    def look(module: Module, node: ast.AST, is_guarded: bool) -> None:
        match node:
            case ast.FunctionDef() | ast.Lambda():
                is_guarded = False
            case ast.Try():
                caught = {
                    name.id
                    for handler in node.handlers
                    if handler.type is not None
                    for name in ast.walk(handler.type)
                    if isinstance(name, ast.Name)
                }
                for inner in node.body:
                    look(module, inner, is_guarded or "OSError" in caught)
                for inner in [*node.handlers, *node.orelse, *node.finalbody]:
                    look(module, inner, is_guarded)
                return
            case ast.With():
                calls = [item.context_expr for item in node.items]
                is_guarded = is_guarded or any(
                    isinstance(call, ast.Call) and called_name(call) == "failures" for call in calls
                )
            case ast.Call(func=ast.Attribute(value=ast.Name(id="os"), attr=name)):
                if name in DISK_CALLS and not is_guarded:
                    faults.append(f"{module.at(node)}: os.{name} may raise a bare OSError")
        for inner in ast.iter_child_nodes(node):
            look(module, inner, is_guarded)

    for module in modules:
        in_memory = module.name.startswith("p2phub.store.memory")
        if is_within(module.name, "p2phub.store") and not in_memory:
            look(module, module.tree, False)
    return faults


def simulations_beyond_core(modules: Iterable[Module]) -> list[str]:
    faults = []
    for module in modules:
        for node, name in imported_names(module):
            top = name.partition(".")[0]
            if top == "p2phub":
                if not any(is_within(name, ground) for ground in SIMULATION_GROUND):
                    faults.append(f"{module.at(node)}: {name} is above core")
            elif top != "simulations" and top not in sys.stdlib_module_names:
                faults.append(f"{module.at(node)}: {top} is no part of a simulation")
    return faults


def heavy_imports_of_the_command_line(modules: Iterable[Module]) -> list[str]:
    """Ways from a command to trio or libp2p through our modules, imported late or not."""
    by_name = {module.name: module for module in modules}
    way = {name: name for name in by_name if is_within(name, "p2phub.cli")}
    open_ends = list(way)
    faults = []
    while open_ends:
        module = by_name[open_ends.pop()]
        for _, name in imported_names(module):
            if name.partition(".")[0] in HEAVY:
                faults.append(f"{way[module.name]} -> {name}")
            for target in modules_loaded_by(name):
                if target in by_name and target not in way:
                    way[target] = f"{way[module.name]} -> {target}"
                    open_ends.append(target)
    return sorted(faults)


def modules_loaded_by(name: str) -> Iterator[str]:
    """Importing a.b.c runs a, a.b and a.b.c."""
    parts = name.split(".")
    return (".".join(parts[: count + 1]) for count in range(len(parts)))


PACKAGE_RULES: list[Rule] = [
    imports_that_do_not_go_down,
    dependencies_away_from_home,
    relative_or_computed_imports,
    impurities,
    prints,
    file_names,
    unguarded_disk_calls,
    heavy_imports_of_the_command_line,
]


@pytest.mark.parametrize("rule", PACKAGE_RULES, ids=lambda rule: rule.__name__)
def test_the_package_has_no(rule: Rule) -> None:
    faults = rule(package_modules())
    assert not faults, "\n" + "\n".join(faults)


def test_simulations_stand_on_proto_and_core_alone() -> None:
    faults = simulations_beyond_core(modules_in("simulations"))
    assert not faults, "\n" + "\n".join(faults)


PLANTED: list[tuple[Rule, str, str]] = [
    (imports_that_do_not_go_down, "p2phub.core.picker", "from p2phub.store.disk import DiskStore"),
    (imports_that_do_not_go_down, "p2phub.store.disk", "import p2phub.net.base"),
    (imports_that_do_not_go_down, "p2phub.net.base", "from p2phub import trust"),
    (imports_that_do_not_go_down, "p2phub.gateway.app", "def f(): import p2phub.control.client"),
    (imports_that_do_not_go_down, "p2phub.proto.codec", "from p2phub.paths import Home"),
    (imports_that_do_not_go_down, "p2phub.errors", "from p2phub.proto.codec import decode"),
    (imports_that_do_not_go_down, "p2phub.node.node", "from p2phub.daemon import main"),
    (imports_that_do_not_go_down, "p2phub", "from p2phub.node.node import Node"),
    (imports_that_do_not_go_down, "p2phub.stray", "x = 1"),
    (dependencies_away_from_home, "p2phub.node.node", "import libp2p.host"),
    (dependencies_away_from_home, "p2phub.node.node", "from sqlite3 import connect"),
    (dependencies_away_from_home, "p2phub.proto.frames", "import msgpack"),
    (dependencies_away_from_home, "p2phub.store.disk", "def f(): import hashlib"),
    (dependencies_away_from_home, "p2phub.store.disk", "import trio"),
    (dependencies_away_from_home, "p2phub.gateway.app", "from cryptography import x509"),
    (dependencies_away_from_home, "p2phub.cli.main", "import requests"),
    (dependencies_away_from_home, "p2phub.cli.commands.demo", "import pyarrow"),
    (dependencies_away_from_home, "p2phub.cli.main", "from cli.options import home"),
    (relative_or_computed_imports, "p2phub.core.picker", "from . import ranges"),
    (relative_or_computed_imports, "p2phub.core.picker", "from ..core import ranges"),
    (relative_or_computed_imports, "p2phub.node.node", "importlib.import_module(name)"),
    (relative_or_computed_imports, "p2phub.node.node", "__import__('trio')"),
    (impurities, "p2phub.core.picker", "async def pick(): pass"),
    (impurities, "p2phub.core.picker", "import time"),
    (impurities, "p2phub.core.picker", "from p2phub.durable import write_durably"),
    (impurities, "p2phub.core.picker", "def f():\n    from os import urandom"),
    (impurities, "p2phub.core.picker", "from random import shuffle"),
    (impurities, "p2phub.core.picker", "import random\nrandom.shuffle([])"),
    (impurities, "p2phub.core.picker", "from datetime import datetime\ndatetime.now()"),
    (impurities, "p2phub.proto.codec", "open('x')"),
    (prints, "p2phub.node.node", "print('hello')"),
    (prints, "p2phub.node.node", "import sys\nsys.stderr.write('hello')"),
    (file_names, "p2phub.store.disk", "folder / 'index.sqlite'"),
    (file_names, "p2phub.store.disk", "folder / f'{name}.part'"),
    (file_names, "p2phub.store.disk", "folder.joinpath('part')"),
    (unguarded_disk_calls, "p2phub.store.disk", "size = os.fstat(file).st_size"),
    (unguarded_disk_calls, "p2phub.store.disk", "try:\n    os.stat(p)\nexcept KeyError:\n    pass"),
    (unguarded_disk_calls, "p2phub.store.disk", "with failures(p):\n    f = lambda: os.stat(p)"),
    (simulations_beyond_core, "simulations.peer", "from p2phub.node.downloads import Downloads"),
    (simulations_beyond_core, "simulations.peer", "import trio"),
    (heavy_imports_of_the_command_line, "p2phub.cli.commands.get", "def f(): import trio"),
]


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    PLANTED,
    ids=[f"{rule.__name__}-{index}" for index, (rule, _, _) in enumerate(PLANTED)],
)
def test_a_planted_fault_is_found(rule: Rule, name: str, text: str) -> None:
    assert rule([planted(name, text)])


SOUND: list[tuple[Rule, str, str]] = [
    (imports_that_do_not_go_down, "p2phub.node.node", "from p2phub.store.disk import DiskStore"),
    (imports_that_do_not_go_down, "p2phub.store.disk", "from p2phub.store.index import Index"),
    (imports_that_do_not_go_down, "p2phub.cli.main", "from p2phub import __version__"),
    (dependencies_away_from_home, "p2phub.proto.codec", "import msgpack, struct"),
    (impurities, "p2phub.core.picker", "import random\ndef f(rng: random.Random): rng.random()"),
    (impurities, "p2phub.store.disk", "import os\nopen('x')"),
    (file_names, "p2phub.store.disk", "folder / name"),
    (unguarded_disk_calls, "p2phub.store.disk", "with failures(path):\n    os.lstat(path)"),
    (unguarded_disk_calls, "p2phub.store.disk", "try:\n    os.stat(p)\nexcept OSError:\n    pass"),
    (simulations_beyond_core, "simulations.peer", "from p2phub.core.swarm import picker"),
]


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    SOUND,
    ids=[f"{rule.__name__}-{index}" for index, (rule, _, _) in enumerate(SOUND)],
)
def test_a_sound_line_is_not_a_fault(rule: Rule, name: str, text: str) -> None:
    assert not rule([planted(name, text)])


def test_a_heavy_import_is_found_through_other_modules() -> None:
    house = [
        planted("p2phub.cli.main", "def run():\n    from p2phub.cli import options"),
        planted("p2phub.cli.options", "from p2phub.node.node import Node"),
        planted("p2phub.node", ""),
        planted("p2phub.node.node", "import trio"),
    ]
    assert heavy_imports_of_the_command_line(house) == [
        "p2phub.cli.options -> p2phub.node.node -> trio"
    ]


def test_importing_the_command_line_loads_neither_trio_nor_libp2p() -> None:
    """The same as the rule above, but by running it: a library could load them too."""
    program = (
        f"import sys, p2phub.cli.main; print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "[]\n"
