"""`make bench`, and the pieces of it that are useful alone: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "var" / "bench"


SITES = ("5000@20", "50000@20", "200000@20", "1000000@20", "1000000@120")


def count(text: str) -> tuple[str, int]:
    letter, _, number = text.partition("=")
    return letter, int(number)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--server", choices=["daphne", "uvicorn", "granian"], default="daphne")
    commands = parser.add_subparsers(dest="command", required=True)
    whole = commands.add_parser("run", help="measure everything, and write docs/performance.md anew")
    whole.add_argument("--quick", action="store_true", help="about a minute, too rough to be written down")
    report = commands.add_parser("report", help="write docs/performance.md anew from results that are there already")
    report.add_argument("results", type=Path, nargs="?", default=WORK / "results.json")
    report.add_argument("--peers", type=Path, help="another harness's rows, one JSON object a line")
    serve = commands.add_parser("serve", help="only serve, with users, for another load generator")
    serve.add_argument("--port", type=int, default=0)
    serve.add_argument("--core", type=int, default=0)
    serve.add_argument("--cookies", type=Path, default=WORK / "cookies.json")
    serve.add_argument("people", nargs="*", type=count, default=[("a", 200), ("b", 200), ("i", 1700)])
    people = commands.add_parser("people", help="make users and sign-ins in the database of DATABASE_URL")
    people.add_argument("file", type=Path)
    people.add_argument("people", nargs="+", type=count, metavar="letter=number")
    stored = commands.add_parser("history", help="make ended calls, or --live ones, in the database of DATABASE_URL")
    stored.add_argument("number", type=int)
    stored.add_argument("--live", action="store_true")
    pages = commands.add_parser("panel", help="how long the operator's pages take on a large site")
    pages.add_argument("--users", type=int, default=100_000)
    pages.add_argument("--calls", type=int, default=1_000_000)
    against = commands.add_parser("against", help="this checkout beside an earlier commit, in alternating pairs")
    against.add_argument("commit")
    against.add_argument("--pairs", type=int, default=20)
    against.add_argument("--idle", type=int, default=5000, help="idle devices of each side; 0 leaves their figures out")
    scale = commands.add_parser("scale", help="simulate what sites of these sizes need: devices@seconds between pings")
    scale.add_argument("sites", nargs="*", type=site, default=[*map(site, SITES)], metavar="devices@seconds")
    return parser


def site(text: str) -> tuple[int, float]:
    devices, _, seconds = text.partition("@")
    return int(devices), float(seconds or 20)


def main() -> int:
    options = arguments().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was started ends too
    match options.command:
        case "people":
            from benchmarks import people

            people.make(dict(options.people), options.file)
        case "history":
            from benchmarks import history

            (history.add_live if options.live else history.add_ended)(os.environ["DATABASE_URL"], options.number)
        case "panel":
            from benchmarks import panel

            return 0 if panel.run(options.users, options.calls) else 1
        case "serve":
            serve(options)
        case "against":
            from benchmarks import against

            against.write(against.compare(options.commit, options.pairs, options.idle, WORK), WORK / "against.json")
        case "scale":
            import django

            os.environ |= {"DJANGO_SETTINGS_MODULE": "callplatform.settings", "DEBUG": "on", "ENV_FILE": os.devnull}
            django.setup()
            from benchmarks import scale

            print(scale.table(options.sites))
        case "run":
            from benchmarks import report, run
            from scripts.services import Trouble

            try:
                results = run.run(run.QUICK if options.quick else run.FULL, options.server, WORK)
            except Trouble as trouble:
                print(f"benchmarks: {trouble}", file=sys.stderr)
                return 1
            (WORK / "results.json").write_text(json.dumps(results, indent=1))
            print(report.text(results))
            if not options.quick:
                report.publish(results)
        case "report":
            from benchmarks import report

            report.publish(json.loads(options.results.read_text()), options.peers)
    return 0


def serve(options: argparse.Namespace) -> None:
    """PostgreSQL, Redis and a server on one core, until SIGTERM or Ctrl-C; prints their process ids."""
    from benchmarks import stack

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    WORK.mkdir(parents=True, exist_ok=True)
    with stack.stores(WORK, options.core) as stores:
        stack.migrate(stores)
        stack.make_people(stores, dict(options.people), options.cookies)
        with stack.server(stores, options.server, options.core, WORK / "serve.log", port=options.port) as server:
            said = {"port": server.port, "server": server.pid, "postgres": stores.postgres, "redis": stores.redis}
            print(json.dumps(said), flush=True)
            signal.pause()


if __name__ == "__main__":
    sys.exit(main())
