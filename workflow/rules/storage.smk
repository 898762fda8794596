# Jobs that share no file system with Snakemake exchange their files through a store, see
# docs/storage.md. Where a file system is shared, `store()` is empty and nothing here has an effect.
import atexit

from flops_fit.store import elsewhere


def use_store():
    """Let every command find the local copies of the store's files where files always are."""
    if store():
        readable(study.use_store)(copy_here("results"), was_sent_here())
        if is_main_process():
            atexit.register(say_answer_if_idle)


def send_plan(planned):
    """Send a plan to the jobs, and get the results of its runs that the store has."""
    elsewhere.note_store("results", store())
    if store():
        name = planned.config["name"]
        if sends_sources():
            elsewhere.check_sent(planned.plan, "results")
            send_with_sources(elsewhere.plan_files(planned.plan, name, "results"))
        bring(planned.results, [planned])
        if planned.config["resources"]["checkpoint_store"] is None:
            logger.warning(f"flops-fit: {name}: {elsewhere.RESTARTS}")


def bring(files, plans):
    """Copy files from the store to where this process and its user look for them.

    The results of the runs of ``plans`` are copies of their records, which are made from them.
    """
    if store() and is_main_process() and not is_dry_run():
        fetch(files)
        for planned in plans:
            elsewhere.restore_records(planned.plan, "results")


def only_in_store(file):
    """The file, where jobs on other machines need it; else none."""
    return [file] if store() else []


def packed_data(plan):
    """The prepared data of a plan, or of a spec, as the single file that travels; else none."""
    return only_in_store(f"{plan.data_dir}.zip") if plan.data_dir else []


def say_answer_if_idle():
    """Print the answer where all files were in the store already; Snakemake then calls no hook."""
    trained = [sweep for sweep in sweeps.values() if sweep.trains]
    made = planned.cache_info().currsize == len(trained)
    if made and had_nothing_to_do() and not is_dry_run():
        say_how_it_ended()
