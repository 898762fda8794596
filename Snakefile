# Entry point in the folder of the repository; the workflow itself is workflow/Snakefile.
include: "workflow/Snakefile"


# A rule in an included file cannot be the default target.
rule everything:
    default_target: True
    input:
        rules.all.input,
