"""What processes have used, read from /proc: CPU seconds and memory of whole process trees. Linux only."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

TICK = os.sysconf("SC_CLK_TCK")


class Memory(NamedTuple):
    """Bytes. `pss` counts shared pages in part, `uss` not at all."""

    pss: int
    uss: int


def _stat(pid: int) -> list[str]:
    """The fields after the name, or [] when the process is gone: 0 is its state, 1 its parent, 11 to 14 its times."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def tree(roots: Iterable[int]) -> list[int]:
    """The processes and all that descend from them."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := _stat(int(name))):
            children.setdefault(int(stat[1]), []).append(int(name))
    found, waiting = [], list(roots)
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def cpu(roots: Iterable[int]) -> float:
    """CPU seconds of the trees, those of children that have ended included."""
    return sum(sum(int(part) for part in stat[11:15]) for pid in tree(roots) if (stat := _stat(pid))) / TICK


def memory(roots: Iterable[int]) -> Memory:
    pss = uss = 0
    for pid in tree(roots):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        except OSError:
            continue
        sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
        pss += sizes["Pss"]
        uss += sizes["Private_Clean"] + sizes["Private_Dirty"]
    return Memory(pss, uss)


def machine() -> float:
    """CPU seconds that everything on this machine has used, as far as one sees from inside it."""
    with open("/proc/stat") as file:
        times = [int(part) for part in file.readline().split()[1:9]]
    return (sum(times) - times[3] - times[4]) / TICK


class Window:
    """`with Window({"server": [pid], …}) as window: …` and then what was used inside."""

    def __init__(self, parts: Mapping[str, list[int]]) -> None:
        self.parts = parts

    def __enter__(self) -> Window:
        self.cpu = self._read()
        self.client, self.machine, self.seconds = time.process_time(), machine(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self.seconds
        self.cpu = {name: now - self.cpu[name] for name, now in self._read().items()}
        self.client = time.process_time() - self.client
        ours = sum(self.cpu.values()) + self.client
        self.foreign = max(0.0, machine() - self.machine - ours) / self.seconds  # cores that others used meanwhile

    def _read(self) -> dict[str, float]:
        return {name: cpu(roots) for name, roots in self.parts.items()}

    def per(self, number: int) -> dict[str, float]:
        """CPU milliseconds for each of `number` things, and their sum as `all`."""
        shares = {name: 1000 * used / max(number, 1) for name, used in self.cpu.items()}
        return {**shares, "all": sum(shares.values())}
