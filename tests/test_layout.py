"""The house stays as it was drawn: who imports whom, who opens transactions, who speaks to sockets."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOUSES = ("calls", "calls/admin", "calls/after", "calls/api", "devices", "callplatform")
MODULES = sorted(path for house in HOUSES for path in ROOT.glob(f"{house}/*.py"))

# What each module of the two apps may import of the house: arrows point down only.
MAY_IMPORT = {
    "devices.policy": set(),
    "devices.names": set(),
    "devices.database": set(),
    "devices.prepared": {"devices.database"},
    "devices.sessions": set(),
    "devices.checks": {"devices.sessions"},
    "devices.times": set(),
    "devices.models": {"devices.policy", "devices.names"},
    "devices.presence": {"devices.models", "devices.prepared", "devices.sessions", "devices.times"},
    "calls.machine": set(),
    "calls.view": {"calls.machine"},
    "calls.protocol": {"calls.machine", "calls.view"},
    "calls.conf": {"calls.machine"},
    "calls.models": {"calls.machine", "calls.conf", "calls.hot"}
    | {"devices.models", "devices.prepared", "devices.presence", "devices.times"},
    "calls.hot": {"calls.machine", "devices.models", "devices.prepared", "devices.presence"},
    "calls.facts": {"calls.machine", "calls.conf", "calls.models", "calls.hot"}
    | {"devices.models", "devices.policy", "devices.prepared", "devices.presence"},
    "calls.after": {"calls.machine", "calls.metrics", "calls.models", "calls.after.push", "calls.after.refusals"},
    "calls.after.push": {"calls.machine", "calls.conf", "calls.logs", "calls.models"}
    | {"devices.models", "devices.sessions", "devices.times"},
    "calls.after.refusals": {"calls.models", "devices.times"},
    "calls.search": set(),
    "calls.cells": set(),
    "calls.tables": {"calls.cells"},
    "calls.roster": {"calls.audit", "calls.switchboard", "calls.tables", "devices.models"},
    "calls.history": {"calls.machine", "calls.models", "calls.search"},
    "calls.people": {"calls.models", "calls.pool", "calls.search", "devices.models", "devices.times"},
    "calls.desk": {
        "calls.machine",
        "calls.arrivals",
        "calls.conf",
        "calls.metrics",
        "calls.pool",
        "calls.switchboard",
        "devices.prepared",
        "devices.presence",
        "devices.sessions",
        "devices.times",
    },
    "calls.arrivals": {"calls.machine", "calls.conf", "calls.hot", "calls.switchboard"}
    | {"devices.models", "devices.prepared", "devices.presence", "devices.sessions"},
    "calls.tokens": {"calls.conf", "calls.models", "calls.switchboard"}
    | {"devices.models", "devices.presence", "devices.sessions", "devices.times"},
    "calls.events": {"calls.machine", "calls.conf", "calls.models", "calls.api.told", "devices.times"},
    "calls.webhooks": {"calls.conf", "calls.events", "calls.logs", "calls.models", "calls.pool", "devices.times"},
    "calls.hub": {"calls.logs"},
    "calls.allowance": {"calls.machine"},
    "calls.pool": {"calls.conf", "devices.database"},
    "calls.ice": {"calls.conf"},
    "calls.engine": set(),
    "calls.address": {"calls.conf"},
    "calls.audit": {"calls.address"},
    "calls.metrics": {"calls.machine"},
    "calls.logs": set(),
    "calls.aggregates": {"calls.models", "devices.models", "devices.times"},
    "calls.api": set(),
    "calls.api.problems": {"calls.machine", "calls.protocol"},
    "calls.api.bodies": set(),
    "calls.api.pages": {"calls.api.problems"},
    "calls.api.keys": {"calls.machine", "calls.allowance", "calls.conf", "calls.models", "calls.api.problems"}
    | {"devices.times"},
    "calls.api.door": {"calls.address", "calls.models", "calls.pool", "calls.api.keys", "calls.api.problems"}
    | {"devices.times"},
    "calls.api.told": {"calls.machine", "calls.models"},
    "calls.switchboard": {
        "calls.machine",
        "calls.conf",
        "calls.models",
        "calls.facts",
        "calls.hot",
        "calls.hub",
        "calls.after",
        "calls.after.refusals",
        "calls.allowance",
        "calls.logs",
    }
    | {"devices.models", "devices.policy", "devices.prepared", "devices.presence", "devices.sessions", "devices.times"},
}
WAYS_IN = {
    "calls.admin",
    "calls.api.site",
    "calls.api.calls",
    "calls.api.tokens",
    "calls.api.device",
    "calls.api.hooks",
    "calls.api.users",
    "calls.consumers",
    "calls.clock",
    "calls.views",
    "calls.account",
    "calls.sign_ins",
    "calls.health",
    "calls.wallboard",
}
URLS = {"calls.urls"}  # names the views, and is named by the site


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def is_of_the_house(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            houses = {name for name in submodules if is_of_the_house(name)}
            found |= houses or {node.module}
    return found


def test_arrows_point_down_only():
    for path in MODULES:
        name, of_the_house = name_of(path), {i for i in imports(path) if i.split(".")[0] in ("calls", "devices")}
        if name in MAY_IMPORT:
            assert of_the_house <= MAY_IMPORT[name], name
        if name not in WAYS_IN | URLS and not name.startswith(("callplatform", "calls.admin.", "calls.api.")):
            assert not of_the_house & WAYS_IN, name
        if name.startswith("devices"):
            assert not any(i.startswith("calls") for i in of_the_house), name


def test_the_apps_import_nothing_of_the_project():
    for path in (*ROOT.glob("calls/**/*.py"), *ROOT.glob("devices/**/*.py")):
        assert not any(name.split(".")[0] == "callplatform" for name in imports(path)), path


@pytest.mark.parametrize("module", ["calls.machine", "calls.view", "calls.protocol", "devices.policy"])
def test_the_rules_know_neither_django_nor_channels_nor_asyncio(module):
    code = f"import sys, {module}; print({{'django', 'channels', 'asgiref', 'asyncio'}} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"


def test_only_the_switchboard_opens_a_transaction_on_calls():
    reads = {"calls.search"}  # in a transaction, to whose end its bound on time holds
    accounts = {"calls.roster"}  # with their lines
    others = {"calls.events", "calls.webhooks", "calls.api.users"}  # on rows of which no call knows
    for path in ROOT.glob("calls/**/*.py"):
        if name_of(path) not in {"calls.switchboard", *reads, *accounts, *others}:
            assert "atomic(" not in path.read_text(), path
    assert "transaction.atomic()" not in (ROOT / "calls/switchboard.py").read_text(), (
        "durable, so that tell comes after commit"
    )


def test_nothing_but_tell_stands_between_the_commit_and_the_effects():
    """Else something that raises there hides a committed change from every device, and has the order tried again."""
    path = ROOT / "calls/switchboard.py"
    functions = {node.name: node.body for node in ast.parse(path.read_text()).body if hasattr(node, "body")}
    tell_and_follow = ["tell(*settled.tell)", "after.follow(settled.done)"]
    for name, commit in {"settle": "_committed(", "settle_in": "await link.transact("}.items():
        said = [ast.unparse(statement) for statement in functions[name]]
        at = said.index(tell_and_follow[0])
        assert said[at - 1].startswith(f"settled = {commit}") and said[at : at + 2] == tell_and_follow, name
    assert [ast.unparse(statement) for statement in functions["_settle"][-2:]] == [
        "await models.store(ask, changes, facts.merged, now)",  # which commits
        "return settled",
    ]
    (committing,) = [node for body in functions["_committed"] for node in ast.walk(body) if isinstance(node, ast.With)]
    assert len(committing.body) == 1 and isinstance(committing.body[0], ast.Return)
    for module in ROOT.glob("calls/**/*.py"):
        assert module.read_text().count("after.follow(") == (2 if module == path else 0), module


def test_only_the_switchboard_speaks_to_sockets():
    for path in ROOT.glob("c*/**/*.py"):
        if name_of(path) != "calls.switchboard":
            assert "hub.publish(" not in path.read_text(), path
        if name_of(path) != "calls.hub":
            assert "group_send" not in path.read_text(), path


def test_the_application_imports_nothing_of_daphne():
    code = "import callplatform.asgi, sys; print([m for m in sys.modules if m.split('.')[0] in ('daphne', 'twisted')])"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_the_browser_modules_are_wired_by_main_alone():
    """And by pages, for what stands beside the calls. Only the pure ones, which import nothing else, are everybody's.

    Each import ends with a semicolon: Django rewrites no other."""
    pure, wiring = {"state.js", "words.js", "text.js", "tones.js"}, {"main.js", "pages.js"}
    for path in ROOT.glob("calls/static/calls/*.js"):
        found = re.findall(r"""^\s*(?:import|export)\b[^;'"]*['"]\./([^'"]+)['"](;?)""", path.read_text(), re.MULTILINE)
        assert all(end for _, end in found), f"{path.name}: an import without a semicolon"
        imported = {name for name, _ in found}
        assert path.name in wiring or imported <= pure, f"{path.name} imports {imported - pure}"


def test_every_module_says_why_it_exists():
    for path in MODULES:
        if path.name not in ("__init__.py", "apps.py"):
            assert ast.get_docstring(ast.parse(path.read_text())), path


def test_the_clients_page_asks_for_every_module_at_once():
    """Else a browser finds those that others import only when it has read these."""
    client = ROOT / "calls" / "static" / "calls"
    todo, found = ["main.js", "pages.js"], set()
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += re.findall(r'from "\./(\w+\.js)"', (client / name).read_text())
    page = (ROOT / "templates" / "calls" / "client.html").read_text()
    asks = r"""<(?:link rel="modulepreload" href|script type="module" src)="{% static 'calls/(\w+\.js)'"""
    asked = re.findall(asks, page)
    assert sorted(asked) == sorted(found)
