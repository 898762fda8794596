"""A logger plugin of Snakemake that says how far a sweep is, whenever runs of it have ended.

Snakemake finds it by this package's name; `logger: flops-fit` in profiles/default switches it on. It
starts nothing: Snakemake hands it every message of its log in a thread of its own, and it adds a
message to the same log, so that its line is in the terminal, the log file and whatever other plugin
is on.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

if TYPE_CHECKING:
    from flops_fit.jobs.progress import Reporter

# Of messages by which the workflow names the sweep that it has planned: the file of the plan, the
# folder of the results.
SWEEP = "flops_fit_sweep"
ENDS = (LogEvent.JOB_FINISHED, LogEvent.JOB_ERROR)


class LogHandler(LogHandlerBase):
    """Answers the end of a job by a line, where it was the end of a run."""

    writes_to_stream = False
    writes_to_file = False
    has_filter = True  # none: the ends of jobs come also where the terminal is quiet about them
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self.reporter: Reporter | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if sweep := getattr(record, SWEEP, None):
                from flops_fit.jobs.progress import Reporter

                self.reporter = Reporter(*sweep)
                self.reporter.news()  # which that message was
            elif (
                self.reporter
                and getattr(record, "event", None) in ENDS
                and (line := self.reporter.news())
            ):
                logging.getLogger(record.name).info(line)
        except Exception:
            self.handleError(record)
