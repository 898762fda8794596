"""Random tables through fit and report, and random sweeps through plan, check and training.

    python benchmarks/fuzz

Prints one line of JSON with the counts of inputs and of their ends; what failed is left in
``--keep`` with its traceback. Exit status: 1 where anything failed. One input again:
``--tables 1 --sweeps 0 --first 731``.
"""

import argparse
import json
import os
import sys
from collections import Counter

from campaign import REFUSED, WRONG, Job, run
from tqdm import tqdm

ANSWERS = ("trust", "provisional", "not identifiable")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--tables", type=int, default=1500)
    add("--pages", type=int, default=200, help="answered tables drawn and reported")
    add("--sweeps", type=int, default=150)
    add("--trained", type=int, default=60, help="planned sweeps of which a run is trained")
    add("--first", type=int, default=0, help="number of the first input")
    add("--seed", type=int, default=0)
    add("--processes", type=int, default=os.cpu_count())
    add("--keep", default="fuzz", help="folder of the inputs that failed")
    return parser.parse_args()


def jobs_of(args: argparse.Namespace) -> list[Job]:
    """Every input as a `Job`, the expensive ones first."""
    jobs = [
        Job(kind, args.seed, number, number < further, args.keep)
        for kind, count, further in (
            ("sweeps", args.sweeps, args.trained),
            ("fits", args.tables, args.pages),
        )
        for number in range(args.first, args.first + count)
    ]
    return sorted(jobs, key=lambda job: not job.further)


def main() -> int:
    args = arguments()
    jobs = jobs_of(args)
    counts: dict[str, Counter] = {"fits": Counter(), "sweeps": Counter()}
    pages = 0
    for job, ends in tqdm(run(jobs, args.processes), total=len(jobs)):
        counts[job.kind].update(ends)
        pages += job.kind == "fits" and job.further and ends[-1] in ANSWERS
    fits, sweeps = counts["fits"], counts["sweeps"]
    line = {
        "tables": fits.total(),
        "pages": pages,
        **{end: fits[end] for end in (*ANSWERS, REFUSED)},
        "sweeps": sweeps.total(),
        "trained": sweeps["trained"],
        "planned": sweeps["planned"],
        "refused_sweeps": sweeps[REFUSED],
        **{end: fits[end] + sweeps[end] for end in reversed(WRONG)},
    }
    print(json.dumps(line))
    done = fits.total() >= args.tables and sweeps.total() >= args.sweeps
    return int(not done or any(line[end] for end in WRONG))


if __name__ == "__main__":
    sys.exit(main())
