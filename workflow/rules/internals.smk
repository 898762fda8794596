# All uses of undocumented parts of Snakemake are in this file. tests/workflow/test_internals.py fails
# if Snakemake changes any of them.
import os
from pathlib import Path

from snakemake.logging import logger
from snakemake.settings.enums import RerunTrigger
from snakemake.settings.types import SharedFSUsage


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


def runs_elsewhere():
    """Whether jobs run on other machines; known only when the workflow starts."""
    return workflow.non_local_exec


def rewording_reruns():
    """Whether an edit of a shell command makes a job stale, as in Snakemake's default."""
    return RerunTrigger.CODE in workflow.dag_settings.rerun_triggers


def settings_rerun_nothing():
    """Whether changed params or another set of inputs leave a job as it is."""
    triggers = workflow.dag_settings.rerun_triggers
    return not {RerunTrigger.PARAMS, RerunTrigger.INPUT} <= {*triggers}


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


def store():
    """Where files of jobs are kept if no file system is shared, such as s3://bucket; else empty."""
    settings = workflow.storage_settings
    provider = settings.default_storage_provider
    return (settings.default_storage_prefix or provider) if provider else ""


def copy_here(path):
    """Where the local copy of a file of the store lies; without a store, the file itself."""
    return str(workflow.inputfile(path))


def was_sent_here():
    """Whether this process is a job to whose machine the sources were sent."""
    shared = workflow.storage_settings.shared_fs_usage
    return workflow.remote_exec and SharedFSUsage.SOURCES not in shared


def sends_sources():
    """Whether the sources are sent to the machines of jobs."""
    shared = workflow.storage_settings.shared_fs_usage
    sends = workflow.remote_execution_settings.job_deploy_sources
    return sends and SharedFSUsage.SOURCES not in shared


def send_with_sources(files):
    """Send files to the machines of jobs together with the sources."""
    workflow.configfiles.extend(files)


def fetch(paths):
    """Copy those files here that the store has, and that are newer there or not here yet."""
    for file in map(workflow.inputfile, paths):
        stored, here = file.storage_object, Path(file)
        if stored.exists() and (
            not here.exists() or here.stat().st_mtime < stored.mtime()
        ):
            here.parent.mkdir(parents=True, exist_ok=True)
            stored.retrieve_object()


def had_nothing_to_do():
    """Whether Snakemake ends without having started a job, and so without calling `onsuccess`."""
    return workflow.executor_plugin is not None and not len(workflow.dag)
