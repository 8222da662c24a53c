"""Rules that fetch a model, check it and its transcoders, and measure these as dictionaries."""


# 0. Known models -----------------------------------------------------------------------------------------------------
rule fetch:
    """A model of the Hub and its transcoders, once it is certain that machine and disk can hold them."""
    output:
        "data/runs/{model}/fetch.json",
    localrule: True
    params:
        sources=lambda w: [source.model_dump_json() for source in CONFIG.model(w.model).sources.values()],
        options=lambda w: [] if workflow.local_exec or workflow.dryrun else ["--skip-memory-check"],
    message:
        "{wildcards.model}: fetching model and transcoders"
    shell:
        "HF_HUB_OFFLINE=0 biology fetch --model {wildcards.model:q} {params.options:q}"


# 1. Model and transcoders --------------------------------------------------------------------------------------------
rule load:
    """Any model and transcoder set: shapes, hooks and hashes verified, freezing proved, fidelity and ablations measured."""
    input:
        weights,
    output:
        manifest="data/runs/{model}/load.json",
        fidelity="data/runs/{model}/fidelity.parquet",
    log:
        "data/runs/{model}/load.log",
    threads: CONFIG.threads
    resources:
        mem_mb=4000,
        runtime=30,
        gpu=gpu,
    params:
        model=lambda w: CONFIG.model(w.model).identity,
        code=lambda w: stage_hash("stages.load"),
    message:
        "{wildcards.model}: checking model and transcoders"
    shell:
        "biology load --model {wildcards.model:q} > {log:q} 2>&1"


rule measure:
    """Transcoders as dictionaries, on held-out tokens: L0, explained variance, losses against ablations, feature density."""
    input:
        "data/runs/{model}/load.json",
    output:
        expand("data/runs/{{model}}/{table}.parquet", table=["dictionary", "density", "token_errors"]),
    log:
        "data/runs/{model}/measure.log",
    threads: CONFIG.threads
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=gpu,
    params:
        model=lambda w: CONFIG.model(w.model).identity,
        prompts=prompts_of_cases,
        code=lambda w: stage_hash("dictionary_commands.measure"),
    message:
        "{wildcards.model}: measuring its transcoders as dictionaries"
    shell:
        "biology measure --model {wildcards.model:q} > {log:q} 2>&1"


rule compare_dictionaries:
    """All transcoder sets of a model, and its neurons, at equal L0 and equal size."""
    input:
        lambda w: expand("data/runs/{model}/load.json", model=CONFIG.siblings(w.model)),
    output:
        "data/runs/{model}/comparison.parquet",
        "reports/{model}/dictionaries.csv",
    log:
        "data/runs/{model}/compare_dictionaries.log",
    threads: CONFIG.threads
    resources:
        mem_mb=4000,
        runtime=120,
        gpu=gpu,
    params:
        models=lambda w: [CONFIG.model(name).identity for name in CONFIG.siblings(w.model)],
        prompts=prompts_of_cases,
        code=lambda w: stage_hash("dictionary_commands.compare_dictionaries"),
    message:
        "{wildcards.model}: comparing its transcoder sets and neurons"
    shell:
        "biology compare-dictionaries --model {wildcards.model:q} > {log:q} 2>&1"


rule predict_ablations:
    """How well attributions predict ablations: by rule, target, and what is frozen."""
    input:
        "data/runs/{model}/load.json",
    output:
        "data/runs/{model}/ablation_prediction.parquet",
        "reports/{model}/ablation_prediction.csv",
        "figures/{model}/ablation_prediction.svg",
    log:
        "data/runs/{model}/predict_ablations.log",
    threads: CONFIG.threads
    resources:
        mem_mb=6000,
        runtime=120,
        gpu=gpu,
    params:
        model=lambda w: CONFIG.model(w.model).identity,
        prompts=prompts_of_cases,
        code=lambda w: stage_hash("dictionary_commands.predict_ablations"),
    message:
        "{wildcards.model}: holding attributions against ablations"
    shell:
        "biology predict-ablations --model {wildcards.model:q} > {log:q} 2>&1"


rule superpose:
    """More features than dimensions: toys in which it is known which directions are there, and how many a dictionary finds."""
    output:
        "reports/superposition.csv",
        "figures/superposition.svg",
    log:
        "data/runs/superpose.log",
    threads: CONFIG.threads
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=lambda w: stage_hash("dictionary_commands.superpose"),
    message:
        "growing toys with more features than dimensions"
    shell:
        "biology superpose > {log:q} 2>&1"
