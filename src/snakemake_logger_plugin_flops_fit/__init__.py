"""A logger plugin of Snakemake that reports the progress of a sweep whenever runs have ended.

Snakemake finds it by the name of this package; `logger: flops-fit` in profiles/default switches it
on. The plugin receives every message of Snakemake's log in a separate thread and adds its line to
the same log, so the line appears in the terminal, in the log file and in other plugins.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

if TYPE_CHECKING:
    from flops_fit.jobs.progress import Reporter

# Attribute of the log message in which the workflow names the sweep that it has planned:
# (plan file, folder of results).
SWEEP = "flops_fit_sweep"
ENDS = (LogEvent.JOB_FINISHED, LogEvent.JOB_ERROR)


class LogHandler(LogHandlerBase):
    """Logs one line on the sweep whenever a job that ended was a run."""

    writes_to_stream = False
    writes_to_file = False
    has_filter = (
        True  # we filter nothing, so the ends of jobs arrive even if the terminal hides them
    )
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self.reporter: Reporter | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Handle one log ``record``: remember the sweep it names, or report progress."""
        try:
            if sweep := getattr(record, SWEEP, None):
                from flops_fit.jobs.progress import Reporter

                self.reporter = Reporter(*sweep)
                self.reporter.news()  # that message already reported the progress
            elif (
                self.reporter
                and getattr(record, "event", None) in ENDS
                and (line := self.reporter.news())
            ):
                logging.getLogger(record.name).info(line)
        except Exception:
            self.handleError(record)
