# The entry from the checkout's own folder; the workflow itself is workflow/Snakefile.
include: "workflow/Snakefile"


# An included file gives no default target.
rule everything:
    default_target: True
    input:
        rules.all.input,
