rule compare_arms:
    input:
        reference=study.compared("fit.json", "reference"),
        candidates=study.compared("fit.json", "candidates"),
        records=arms_records,
    output:
        html=report(
            "results/{comparison}/compare.html",
            caption="../report/compare.rst",
            category="Answer",
            labels={"answer": "comparison"},
        ),
        svg=report(
            "results/{comparison}/compare.svg",
            caption="../report/compare.rst",
            category="Figures",
            labels={"figure": "comparison"},
        ),
        other=[
            f"results/{{comparison}}/{name}"
            for name in COMPARED
            if name not in ("compare.html", "compare.svg")
        ],
    log:
        "results/{comparison}/logs/compare.log",
    conda:
        "../../envs/flops-fit.yaml"
    params:
        options=arms_options,
        code=code_of("compare"),
    shell:
        "python -m flops_fit compare --reference {input.reference:q}"
        " --candidate {input.candidates:q} {params.options} --out results/{wildcards.comparison}"
        " > {log} 2>&1"
