# What this workflow takes from inside of Snakemake, beyond its documented language, stands here and
# nowhere else. tests/workflow/test_internals.py fails when Snakemake changes any of it.
import os

from snakemake.logging import logger
from snakemake.settings.enums import RerunTrigger


def checkout_folder():
    """The folder of this repository, seen from a rule file while it is read.

    Where Snakemake fetched the workflow from afar there is none: the working directory.
    """
    here = workflow.current_basedir
    return (
        os.path.normpath(os.path.join(here, "../..")) if here.is_local else os.getcwd()
    )


def config_files():
    """Every config file given on the command line or by `configfile`."""
    return workflow.configfiles


def is_main_process():
    """Whether this is the Snakemake that the user started, and not one within a job."""
    return workflow.is_main_process


def is_dry_run():
    return workflow.dryrun


def rewording_reruns():
    """Whether another wording of a shell line makes a job stale, as by Snakemake's default."""
    return RerunTrigger.CODE in workflow.dag_settings.rerun_triggers


def is_asked_for(rule):
    """Whether a rule is named as a target on the command line."""
    return rule in workflow.dag_settings.targets


def name_outside(rule):
    """A rule's name where this workflow is a module of another; known while it is read."""
    return workflow.modifier.modify_rulename(rule)


def set_resource(rule, resource):
    """What a profile's set-resources asks for, as it stands there; or None. `rule`: as outside."""
    given = workflow.resource_settings.overwrite_resources.get(rule, {})
    value = dict(given).get(resource)
    return None if value is None else str(getattr(value, "raw", value)).strip("'")
