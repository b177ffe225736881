"""Several demonstrations at once on the same cores, against one alone.

    python benchmarks/busy_cores.py --at-once 4 8 --output busy.json

N at once should take N times one alone, which uses every core: ``times_fair`` is their time over
that, 1 where the cores are shared well. ``processor_times_fair`` is the same of the processor time
of one, which other programs on the machine change less. Each round runs one alone and every N, so
that a slow minute meets all of them; medians over rounds. ``--wait-policy active`` lets OpenMP's
threads spin, as they do where the command line does not say otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch


def run_at_once(count: int, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds until the last of ``count`` demonstrations is done, and processor seconds of one."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "plasticine", "demo", "--output", str(Path(folder, str(i)))],
                env=environment,
                stdout=subprocess.DEVNULL,
            )
            for i in range(count)
        ]
        used = 0.0
        for process in processes:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            used += usage.ru_utime + usage.ru_stime
        seconds = time.perf_counter() - started
    if any(process.returncode for process in processes):
        raise SystemExit("a demonstration failed; see above")
    return seconds, used / count


def measure(counts: list[int], rounds: int, environment: dict[str, str]) -> dict[str, Any]:
    """Medians of every count, and how they compare with one alone."""
    found: dict[int, list[tuple[float, float]]] = {count: [] for count in [1, *counts]}
    for _ in range(rounds):
        for count, values in found.items():
            values.append(run_at_once(count, environment))
            print(f"{count} at once: {values[-1][0]:.1f} s, each {values[-1][1]:.1f} processor s")
    medians = {
        count: [statistics.median(column) for column in zip(*values, strict=True)]
        for count, values in found.items()
    }
    alone, processor_alone = medians[1]
    return {
        str(count): {
            "seconds": seconds,
            "processor_seconds_each": processor,
            "times_fair": seconds / (count * alone),
            "processor_times_fair": processor / processor_alone,
        }
        for count, (seconds, processor) in medians.items()
    }


def main() -> None:
    """Measures, and writes the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--at-once", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--wait-policy", choices=["passive", "active"], help="OMP_WAIT_POLICY")
    parser.add_argument("--output", type=Path, help="JSON file; printed where not given")
    arguments = parser.parse_args()
    if min(arguments.at_once, default=0) < 2 or arguments.rounds < 1:
        parser.error("--at-once takes numbers of 2 and more, --rounds one of 1 and more")
    unset = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    if arguments.wait_policy:
        environment["OMP_WAIT_POLICY"] = arguments.wait_policy
    load = os.getloadavg()
    record = {
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)),
        "wait_policy": arguments.wait_policy or "the command line's own",
        "load_before": load,
        "rounds": arguments.rounds,
        "at_once": measure(arguments.at_once, arguments.rounds, environment),
    }
    text = json.dumps(record, indent=2) + "\n"
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
