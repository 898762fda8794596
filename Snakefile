from snakemake.utils import min_version

# The first with priorities that differ between jobs of a rule.
min_version("9.17")


include: "workflow/rules/common.smk"


report: "workflow/report/workflow.rst"


include: "workflow/rules/plan.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/collect.smk"
include: "workflow/rules/learning_rate.smk"
include: "workflow/rules/fit.smk"
include: "workflow/rules/plot.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/confirm.smk"


rule all:
    default_target: True
    input:
        targets,


onstart:
    if workflow.is_main_process:
        sweep.say_progress()


onsuccess:
    if workflow.is_main_process and (words := closing_words()):
        print(f"\n{sweep.name}: {words}")
