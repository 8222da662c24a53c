"""Rules that draw figures and write pages, from tables and verdicts alone. None needs torch."""


# 8. Figures ----------------------------------------------------------------------------------------------------------
rule draw:
    """One figure, as SVG and PNG."""
    input:
        rules.tabulate.output,
        parts=rules.judge.output.parts,
        code=[*code("figures.case_figures"), STYLE],
        case=case_code,
    output:
        report(
            "figures/{model}/{case}/{figure}.svg",
            caption="../docs/report/figure.rst",
            category="Figures",
            subcategory="{case}",
            labels={"model": "{model}", "figure": "{figure}"},
        ),
        "figures/{model}/{case}/{figure}.png",
    log:
        "data/runs/{model}/{case}/draw_{figure}.log",
    params:
        case=lambda w: fingerprint(CASES[w.model, w.case], "prompts", "supernodes", "experiments"),
    message:
        "{wildcards.model}, {wildcards.case}: drawing {wildcards.figure}"
    shell:
        "biology draw --model {wildcards.model:q} --case {wildcards.case:q} --figure {wildcards.figure:q} > {log:q} 2>&1"


rule draw_story:
    """A case on one sheet, as a talk would show it."""
    input:
        rules.tabulate.output,
        verdicts=rules.judge.output.verdicts,
        claims="experiments/{case}/claims.yaml",
        code=[*code("findings.story_sheet"), STYLE],
    output:
        "figures/{model}/{case}/story.svg",
        "figures/{model}/{case}/story.png",
    log:
        "data/runs/{model}/{case}/draw_story.log",
    params:
        case=lambda w: fingerprint(CASES[w.model, w.case], "prompts", "supernodes", "experiments", "story"),
    message:
        "{wildcards.model}, {wildcards.case}: drawing its story"
    shell:
        "biology draw-story --model {wildcards.model:q} --case {wildcards.case:q} > {log:q} 2>&1"


rule draw_dictionary:
    """One figure of a model's transcoders as dictionaries."""
    input:
        lambda w: f"data/runs/{w.model}/{DICTIONARY_TABLES[w.figure]}.parquet",
        code=[*code("figures.dictionary_figures"), STYLE],
    output:
        "figures/{model}/{figure}.svg",
        "figures/{model}/{figure}.png",
    log:
        "data/runs/{model}/draw_{figure}.log",
    message:
        "{wildcards.model}: drawing {wildcards.figure}"
    shell:
        "biology draw-dictionary --model {wildcards.model:q} --figure {wildcards.figure:q} > {log:q} 2>&1"


# 9. Reports ----------------------------------------------------------------------------------------------------------
rule write:
    """The report of a case: one file of HTML that asks nothing of the network; and every scored prompt as CSV."""
    input:
        rules.tabulate.output,
        rules.judge.output,
        figures=lambda w: [file for file in FIGURES if file.startswith(f"figures/{w.model}/{w.case}/")],
        graphs=rules.attribute.output.shown,
        atlas=rules.atlas.output,
        steering=f"{RUN}/node_steering.parquet",
        labels="reports/{model}/labels.json",
        claims="experiments/{case}/claims.yaml",
        manifest="data/runs/{model}/load.json",
        text="experiments/{case}/README.md",
        sites=lambda w: site_parts([w.model]),
        code=[*code("report.case_report"), *TEMPLATES],
    output:
        report(
            "reports/{model}/{case}.html",
            caption="../docs/report/case.rst",
            category="Pages",
            labels={"model": "{model}", "page": "{case}"},
        ),
        "reports/{model}/{case}_prompts.csv",
    log:
        f"{RUN}/write.log",
    params:
        case=lambda w: fingerprint(
            CASES[w.model, w.case], "paper", "prompts", "supernodes", "experiments", "story", "figures"
        ),
        controls=lambda w: contents_hash(
            Path("reports"), "calibration.csv", *(f"{model}/verdicts.csv" for model in CONTROLS)
        ),
        truth=lambda w: contents_hash(
            Path("experiments"), f"{w.case}/mechanism.yaml", f"{w.case}/twins/*.yaml", "twins.csv"
        ),
    message:
        "{wildcards.model}, {wildcards.case}: writing the report"
    shell:
        "biology write --model {wildcards.model:q} --case {wildcards.case:q} > {log:q} 2>&1"


rule write_page:
    """The feature atlas of a model, and the page on which one steers it."""
    input:
        of_page,
        labels="reports/{model}/labels.json",
        manifest="data/runs/{model}/load.json",
        code=[*code("report.atlas_page", "report.steer_page"), *TEMPLATES],
    output:
        report(
            "reports/{model}/{page}.html",
            caption="../docs/report/page.rst",
            category="Pages",
            labels={"model": "{model}", "page": "{page}"},
        ),
    log:
        "data/runs/{model}/write_{page}.log",
    params:
        cases=lambda w: [
            fingerprint(CASES[w.model, case], "prompts", "supernodes", "experiments") for case in MODELS[w.model]
        ],
    message:
        "{wildcards.model}: writing the {wildcards.page}"
    shell:
        "biology write --model {wildcards.model:q} --page {wildcards.page:q} > {log:q} 2>&1"


rule name_members:
    """The supernodes of the named prompts, for whoever steers without the pipeline, and words for features."""
    input:
        lambda w: expand(
            "data/runs/{model}/{case}/{table}.parquet",
            model=w.model,
            case=MODELS[w.model],
            table=["supernodes", "prompts", "sites"],
        ),
        atlas="data/runs/{model}/atlas.parquet",
        code=code("supernodes.named_members", "findings.labels"),
    output:
        "reports/{model}/supernodes.csv",
        "reports/{model}/labels.json",
    log:
        "data/runs/{model}/members.log",
    message:
        "{wildcards.model}: supernodes of the named prompts"
    shell:
        "biology members --model {wildcards.model:q} > {log:q} 2>&1"


rule lab:
    """The page in which a small model runs by itself: its weights, its features' labels and its supernodes, in one file."""
    input:
        weights,
        "data/runs/{model}/atlas.parquet",
        "data/runs/{model}/atlas_prompts.parquet",
        "reports/{model}/supernodes.csv",
        code=[*code("report.lab_page"), *TEMPLATES],
    output:
        report(
            "reports/{model}/lab.html",
            caption="../docs/report/lab.rst",
            category="Pages",
            labels={"model": "{model}", "page": "lab"},
        ),
    log:
        "data/runs/{model}/lab.log",
    params:
        cases=lambda w: [
            fingerprint(CASES[w.model, case], "paper", "prompts", "items", "supernodes", "experiments")
            for case in MODELS[w.model]
        ],
    message:
        "{wildcards.model}: putting the model into a page"
    shell:
        "biology lab --model {wildcards.model:q} > {log:q} 2>&1"


rule write_index:
    """The page that lists every model, case and verdict, and the texts beside it that pages lead to."""
    input:
        VERDICTS,
        CASE_PAGES,
        MODEL_PAGES,
        LABS,
        texts=asked.texts,
        code=[*code("report.index_page"), *TEMPLATES],
    output:
        report(
            "reports/index.html",
            caption="../docs/report/index.rst",
            category="Verdicts",
            labels={"model": "all", "what": "scoreboard"},
        ),
        [f"reports/{text}.html" for text in TEXTS],
    log:
        "data/runs/write_index.log",
    params:
        controls=lambda w: contents_hash(Path("reports"), *(f"{model}/verdicts.csv" for model in CONTROLS + EXTENSIONS)),
    message:
        "writing the index of all reports"
    shell:
        "biology write > {log:q} 2>&1"
