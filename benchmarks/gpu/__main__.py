"""All that a machine with a GPU must show, in order, and the page docs/gpu.md of it.

    python benchmarks/gpu [--only 1,4] [--device cpu] [--work build/gpu]

Each part is a process of its own with a time limit. Where there is no GPU, or with ``--device cpu``,
every part that a CPU can do is done at a tiny size, and the page is left in the working folder. Exit
status: 1 where a part failed or something does not hold.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from common import ROOT, Bench, machine
from page import page, read

# The module and the function of each part, and the minutes that it may take on a GPU.
PARTS = {
    1: ("correctness", "law", 12),
    2: ("correctness", "options", 15),
    3: ("costs", "counting", 3),
    4: ("costs", "throughput", 10),
    5: ("costs", "memory", 6),
    6: ("sharing", "sharing", 16),
    7: ("sweep", "sweep", 30),
    8: ("correctness", "processes", 3),
}
GRACE_SECONDS = (
    45.0  # a trainer that is asked to stop may save for 20 s, and its launcher waits for it
)
KEPT = ROOT / "docs" / "gpu" / "lines.jsonl"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--only", default=",".join(map(str, PARTS)), help="parts, such as 1,4 (default: all)")
    add("--device", choices=("cuda", "cpu"), help="default: cuda where torch finds a GPU")
    add("--work", type=Path, default=ROOT / "build" / "gpu", help="folder (default: build/gpu)")
    add("--minutes", type=float, help="limit of each part (default: 3 to 30, by part)")
    add("--part", type=int, help=argparse.SUPPRESS)  # do this one here
    parsed = parser.parse_args()
    unknown = [part for part in parsed.only.split(",") if part not in map(str, PARTS)]
    if unknown:
        parser.error(f"--only: {unknown[0]!r}; allowed: parts 1 to {max(PARTS)}, such as 1,4")
    return parsed


def main() -> int:
    args = arguments()
    if args.device is None:
        import torch

        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.part is not None:
        do(args.part, args.device, args.work)
        return 0
    args.work.mkdir(parents=True, exist_ok=True)
    parts = sorted(map(int, args.only.split(",")))
    on, fresh = machine(args.device), []
    print(f"{on['card']}, driver {on['driver']}, torch {on['torch']}", flush=True)
    for part in parts:
        minutes = args.minutes or PARTS[part][2]
        fresh += [line | on for line in apart(part, args, minutes)]
    if args.device == "cuda":
        others = [line for line in read(KEPT) if line["part"] not in parts]
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text("".join(json.dumps(line) + "\n" for line in others + fresh))
        target, lines = ROOT / "docs" / "gpu.md", others + fresh
    else:
        target, lines = args.work / "gpu.md", fresh
    target.write_text(page(lines))
    print(f"wrote {target}")
    return int(any(line["holds"] is False for line in fresh))


def do(part: int, device: str, work: Path) -> None:
    """Do one part in this process."""
    module, function, _ = PARTS[part]
    bench = Bench(part, device, work / f"part{part}", work / f"part{part}.jsonl")
    getattr(__import__(module), function)(bench)


def apart(part: int, args: argparse.Namespace, minutes: float) -> list[dict]:
    """Do one part in a process of its own; returns its lines, with one more where it failed."""
    folder, lines = args.work / f"part{part}", args.work / f"part{part}.jsonl"
    shutil.rmtree(folder, ignore_errors=True)
    lines.unlink(missing_ok=True)
    folder.mkdir()
    line = [sys.executable, __file__, "--part", str(part), "--device", args.device]
    log = args.work / f"part{part}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*line, "--work", str(args.work)], stderr=errors, start_new_session=True
        )
        try:
            status = process.wait(60 * minutes)
            last = [text for text in log.read_text().splitlines() if text.strip()][-1:]
            why = f"status {status}: {''.join(last)}"
        except subprocess.TimeoutExpired:
            end(process)
            status, why = process.wait(), f"not done after {minutes:g} minutes"
    if status:
        Bench(part, args.device, folder, lines).note(
            f"part {part}", f"failed: {why}", PARTS[part][1], holds=False
        )
    return read(lines)


def end(process: subprocess.Popen) -> None:
    """End a part and all that it has started, or the next part would share the GPU with it."""
    deadline = time.monotonic() + GRACE_SECONDS
    os.killpg(process.pid, signal.SIGTERM)
    process.wait()
    with contextlib.suppress(ProcessLookupError):  # the last of them has ended
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.5)
        os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
