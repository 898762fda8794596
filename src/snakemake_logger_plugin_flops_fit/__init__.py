"""A logger plugin of Snakemake that reports the progress of a sweep whenever runs have ended.

Snakemake finds it by the name of this package; `logger: flops-fit` in profiles/default switches it
on. The plugin receives every message of Snakemake's log in a separate thread and adds its line to
the same log, so the line appears in the terminal, in the log file and in other plugins. With
`--logger-flops-fit-brief` it also writes to the terminal in Snakemake's place: its own lines,
warnings and errors, and nothing else.
"""

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

if TYPE_CHECKING:
    from flops_fit.jobs.progress import Reporter

# Attributes of log messages: the sweep that the workflow has planned, as (plan file, folder of
# results), and the mark of a line about it.
SWEEP = "flops_fit_sweep"
LINE = "flops_fit_line"
RUN = "train_run"  # the rule of a run, behind the prefix of a module
ENDS = (LogEvent.JOB_FINISHED, LogEvent.JOB_ERROR)
ERRORS = (LogEvent.JOB_ERROR, LogEvent.GROUP_ERROR, LogEvent.ERROR)


@dataclass
class LogHandlerSettings(LogHandlerSettingsBase):
    """The options of the plugin on Snakemake's command line; ``brief`` leaves it the terminal."""

    brief: bool = field(
        default=False,
        metadata={
            "help": "Print the progress of the sweep, warnings and errors only. The rest is in the "
            "log file that Snakemake keeps."
        },
    )


class LogHandler(LogHandlerBase):
    """Logs one line on the sweep whenever a job that ended was a run."""

    writes_to_file = False
    has_filter = (
        True  # we filter nothing, so the ends of jobs arrive even if the terminal hides them
    )
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self.reporters: dict[tuple[str, str], Reporter] = {}
        self.runs: dict[int, str] = {}  # experiments by the numbers of their jobs
        self.ended: set[str] = set()  # of which jobs on other machines leave no file here
        # A dry run is asked for what Snakemake prints of its jobs
        asked = isinstance(self.settings, LogHandlerSettings) and self.settings.brief
        self.brief = asked and not self.common_settings.dryrun
        if self.brief:
            from snakemake.logging import DefaultFormatter

            self.setFormatter(DefaultFormatter(set(), self.common_settings.show_failed_logs))

    @property
    def writes_to_stream(self) -> bool:
        """Whether Snakemake leaves the terminal to this plugin."""
        return self.brief

    def emit(self, record: logging.LogRecord) -> None:
        """Handle one log ``record``: remember the sweep it names, or report progress."""
        try:
            if self.brief and _matters(record):
                print(self.format(record), file=sys.stderr, flush=True)
            if sweep := getattr(record, SWEEP, None):
                from flops_fit.jobs.progress import Reporter

                self.reporters[sweep] = Reporter(*sweep)
                self.reporters[sweep].news()  # that message already reported the progress
                return
            self._follow(vars(record))
            if getattr(record, "event", None) in ENDS:
                for reporter in self.reporters.values():
                    if line := reporter.news(self.ended):
                        logging.getLogger(record.name).info(line, extra={LINE: True})
        except Exception:
            self.handleError(record)

    def _follow(self, message: Mapping[str, Any]) -> None:
        """Note from the attributes of a ``message`` which runs start and which end."""
        if message.get("event") == LogEvent.JOB_INFO and message["rule_name"].endswith(RUN):
            self.runs[message["jobid"]] = message["wildcards"]["id"]
        elif message.get("event") == LogEvent.JOB_FINISHED and message["job_id"] in self.runs:
            self.ended.add(self.runs[message["job_id"]])


def _matters(record: logging.LogRecord) -> bool:
    return (
        hasattr(record, SWEEP)
        or hasattr(record, LINE)
        or record.levelno >= logging.WARNING
        or getattr(record, "event", None) in ERRORS
    )
