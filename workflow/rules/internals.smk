# All uses of undocumented parts of Snakemake are in this file. tests/workflow/test_internals.py fails
# if Snakemake changes any of them.
import os

from snakemake.logging import logger
from snakemake.settings.enums import RerunTrigger


def checkout_folder():
    """The folder of this repository, or the working directory if Snakemake fetched the workflow.

    Works only while a rule file is read.
    """
    here = workflow.current_basedir
    return (
        os.path.normpath(os.path.join(here, "../..")) if here.is_local else os.getcwd()
    )


def config_files():
    """All config files, from the command line and from `configfile`."""
    return workflow.configfiles


def is_main_process():
    """Whether this is the Snakemake that the user started, not one inside a job."""
    return workflow.is_main_process


def is_dry_run():
    return workflow.dryrun


def rewording_reruns():
    """Whether an edit of a shell command makes a job stale, as in Snakemake's default."""
    return RerunTrigger.CODE in workflow.dag_settings.rerun_triggers


def is_asked_for(rule):
    """Whether a rule is named as a target on the command line."""
    return rule in workflow.dag_settings.targets


def name_outside(rule):
    """The name of a rule if this workflow is a module of another; known only while it is read."""
    return workflow.modifier.modify_rulename(rule)


def set_resource(rule, resource):
    """The value of a resource in set-resources, as written there, or None.

    `rule` is the name as in `name_outside`.
    """
    given = workflow.resource_settings.overwrite_resources.get(rule, {})
    value = dict(given).get(resource)
    return None if value is None else str(getattr(value, "raw", value)).strip("'")
