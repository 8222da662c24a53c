"""Rules from tables to verdicts, and to what verdicts are worth. None needs torch."""


# 6. Tidy tables. Nothing below needs torch, or a GPU, or more than a laptop ------------------------------------------
rule tabulate:
    """Everything measured, as tidy tables with a checked schema; all that claims, figures and reports ever read."""
    input:
        rules.cache.output,
        rules.group.output,
        rules.attribute.output,
        rules.intervene.output,
        other_size,
        fidelity="data/runs/{model}/fidelity.parquet",
        code=code("evidence.contrasts", "tables"),
    output:
        expand(f"{RUN}/{{table}}.parquet", table=TABLES, allow_missing=True),
    log:
        f"{RUN}/tabulate.log",
    params:
        case=lambda w: fingerprint(CASES[w.model, w.case], "experiments"),
        gates=lambda w: [claim.gate for claim in load_claims(".", w.case)],
    message:
        "{wildcards.model}, {wildcards.case}: writing tables"
    shell:
        "biology tabulate --model {wildcards.model:q} --case {wildcards.case:q} > {log:q} 2>&1"


# 7. Verdicts ---------------------------------------------------------------------------------------------------------
rule passing:
    """The prompts that a model answers, and so can be asked, by case, set and split."""
    input:
        lambda w: expand("data/runs/{model}/{case}/prompts.parquet", model=w.model, case=MODELS[w.model]),
        code=code("verdicts.passing"),
    output:
        "reports/{model}/passing.csv",
    log:
        "data/runs/{model}/passing.log",
    message:
        "{wildcards.model}: counting the prompts that it answers"
    shell:
        "biology passing --model {wildcards.model:q} > {log:q} 2>&1"


rule judge:
    """A verdict for every registered claim; all cases of a model at once, because Holm's correction spans them."""
    input:
        lambda w: expand(f"{RUN}/{{table}}.parquet", model=w.model, case=MODELS[w.model], table=TABLES),
        manifest="data/runs/{model}/load.json",
        claims=lambda w: expand("experiments/{case}/claims.yaml", case=MODELS[w.model]),
        lock="experiments/claims.lock",
        code=code("verdicts.claims", "verdicts.registration"),
    output:
        verdicts=report(
            "reports/{model}/verdicts.csv",
            caption="../docs/report/verdicts.rst",
            category="Verdicts",
            labels={"model": "{model}", "what": "all claims"},
        ),
        parts="data/runs/{model}/parts.parquet",
        clusters="data/runs/{model}/clusters.parquet",
    log:
        "data/runs/{model}/judge.log",
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        statistics=CONFIG.statistics.model_dump_json(),
    message:
        "{wildcards.model}: judging all claims"
    shell:
        "biology judge --model {wildcards.model:q} > {log:q} 2>&1"


rule card:
    """What a downloaded model is, what it answers, and what came out."""
    input:
        "data/runs/{model}/load.json",
        "data/runs/{model}/fidelity.parquet",
        "reports/{model}/passing.csv",
        "reports/{model}/verdicts.csv",
        code=code("findings.model_card"),
    output:
        "reports/{model}/README.md",
    log:
        "data/runs/{model}/card.log",
    message:
        "{wildcards.model}: writing its card"
    shell:
        "biology card --model {wildcards.model:q} > {log:q} 2>&1"


rule compare:
    """Seeds beside their reference, twins and random controls beside what is expected of them."""
    input:
        [f"reports/{model}/verdicts.csv" for model in CONTROLS],
        [f"reports/{CONFIG.models[model].of}/verdicts.csv" for model in CONTROLS],
        expected="experiments/twins.csv",
        code=code("verdicts.robustness", "verdicts.discrimination"),
    output:
        "reports/robustness.csv",
        "reports/discrimination.csv",
    log:
        "data/runs/compare.log",
    message:
        "comparing seeds, twins and controls"
    shell:
        "biology compare > {log:q} 2>&1"


rule calibrate:
    """Verdicts beside the truth of planted mechanisms: sensitivity and specificity."""
    input:
        [f"reports/{model}/verdicts.csv" for model in CALIBRATED],
        expand(
            "experiments/{case}/mechanism.yaml", case=sorted({case for model in CALIBRATED for case in MODELS[model]})
        ),
        expected="experiments/twins.csv",
        sites=site_parts([model for model in CALIBRATED if CONFIG.model(model).role != "random"]),
        claims=expand(
            "experiments/{case}/claims.yaml", case=sorted({case for model in CALIBRATED for case in MODELS[model]})
        ),
        code=[
            *code(
                "figures.calibration_figure",
                "figures.site_parts_figure",
                "findings.faults",
                "verdicts.graph_calibration",
            ),
            STYLE,
        ],
    output:
        "reports/calibration.csv",
        "reports/calibration_graphs.csv",
        "reports/misses.csv",
        "figures/site_parts.svg",
        "figures/calibration.svg",
        "figures/calibration.png",
    log:
        "data/runs/calibrate.log",
    message:
        "calibrating: verdicts where the truth is known"
    shell:
        "biology calibrate > {log:q} 2>&1"
