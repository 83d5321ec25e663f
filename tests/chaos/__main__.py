"""`python -m tests.chaos`: breaks two servers in many ways while people call each other, and checks what came of it.

Writes docs/reliability.md with --report, and ends with 1 when anything was not as it has to be.
"""

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

import msgspec

from tests.chaos.stage import Stage
from tests.servers import ROOT


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("faults", nargs="*", metavar="WORD", help="only faults whose name contains one of these words")
    parser.add_argument("--short", action="store_true", help="a minute, with shorter deadlines")
    parser.add_argument("--seed", type=int, default=1, help="for what people do")
    parser.add_argument("--source", type=Path, default=ROOT, help="the tree whose servers run")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--logs", type=Path, help="keep the logs of the servers in this directory")
    parser.add_argument("--report", type=Path, help="write the report to this file, if all faults were made")
    options = parser.parse_args()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):  # so that everything that was started ends too
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with Stage(options.source.absolute(), short=options.short) as stage:
        os.environ.clear()
        os.environ.update(stage.environment)
        import django

        django.setup()
        from tests.chaos import report, run

        try:
            result = await run.run(stage, options.faults, short=options.short, seed=options.seed)
        finally:
            if options.logs:
                options.logs.mkdir(parents=True, exist_ok=True)
                for server in stage.servers:
                    (options.logs / server.log.name).write_text(server.logged())
    if options.json:
        options.json.write_bytes(msgspec.json.encode(result))
    if options.report and not options.faults:
        options.report.write_text(report.written(result))
    print(f"{result.violations} violations in {result.took_s:.0f} s")
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
