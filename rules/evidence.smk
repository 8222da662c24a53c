"""Rules that measure a case on a model: activations, supernodes, graphs, perturbations. All need torch."""


def perturbing(wildcards):
    """Cores of a job that perturbs, which takes most of a case's time: those that are left if each case has one."""
    alone = CONFIG.threads > 1 or gpu(wildcards)  # such a model is not shared between processes
    together = [pair for pair in CASES if (pair[0] in SHOWN) == (wildcards.model in SHOWN)]
    return CONFIG.threads if alone else max(1, (workflow.cores or 1) // len(together))


# 2. Activations ------------------------------------------------------------------------------------------------------
rule cache:
    """Every prompt of the case once through the model: the answer it gives, and the features that are active."""
    input:
        "data/runs/{model}/load.json",
    output:
        activations=f"{RUN}/cache.safetensors",
        prompts=f"{RUN}/cache.parquet",
    log:
        f"{RUN}/cache.log",
    priority: 1
    threads: CONFIG.threads
    resources:
        mem_mb=4000,
        runtime=30,
        gpu=gpu,
    params:
        case=lambda w: fingerprint(CASES[w.model, w.case], "prompts", "items"),
        corpus=corpus,
        code=lambda w: stage_hash("stages.cache"),
    message:
        "{wildcards.model}, {wildcards.case}: running all prompts"
    shell:
        "biology cache --model {wildcards.model:q} --case {wildcards.case:q} > {log:q} 2>&1"


# 3. Supernodes -------------------------------------------------------------------------------------------------------
rule group:
    """Supernode members by rule; a rule sees activations and decoders, never a graph or an effect of what is tested. Where it
    says `at: found`, MLP outputs exchanged between development prompts say where to look."""
    input:
        rules.cache.output,
    output:
        f"{RUN}/group.parquet",
        f"{RUN}/group_sites.parquet",
        f"{RUN}/group_operands.parquet",
        f"{RUN}/group_plots.parquet",
    log:
        f"{RUN}/group.log",
    priority: 1
    threads: CONFIG.threads
    resources:
        mem_mb=4000,
        runtime=30,
        gpu=gpu,
    params:
        case=lambda w: fingerprint(CASES[w.model, w.case], "prompts", "items", "supernodes", "operands"),
        seed=CONFIG.statistics.seed,
        code=lambda w: stage_hash("stages.group"),
    message:
        "{wildcards.model}, {wildcards.case}: finding supernodes"
    shell:
        "biology group --model {wildcards.model:q} --case {wildcards.case:q} > {log:q} 2>&1"


rule decompose:
    """Sites that were found or planted, taken apart on held-out prompts: what MLPs, features, members and the others carry of the variable."""
    input:
        lambda w: expand(
            "data/runs/{model}/{case}/{file}",
            model=w.model,
            case=searching(w.model),
            file=["cache.safetensors", "cache.parquet", "group_sites.parquet", "group_operands.parquet"],
        ),
    output:
        "reports/{model}/site_parts.csv",
    log:
        "data/runs/{model}/decompose.log",
    threads: CONFIG.threads
    resources:
        mem_mb=4000,
        runtime=30,
        gpu=gpu,
    params:
        cases=lambda w: [
            fingerprint(CASES[w.model, case], "prompts", "items", "supernodes", "operands")
            for case in searching(w.model)
        ],
        stated=lambda w: contents_hash(Path("experiments"), *(f"{case}/mechanism.yaml" for case in searching(w.model))),
        statistics=CONFIG.statistics.model_dump_json(),
        code=lambda w: stage_hash("stages.decompose"),
    message:
        "{wildcards.model}: taking the sites of supernodes apart"
    shell:
        "biology decompose --model {wildcards.model:q} > {log:q} 2>&1"


# 4. Attribution graphs -----------------------------------------------------------------------------------------------
rule attribute:
    """Direct effects between active features, errors, tokens and logits; one graph a prompt, reduced to supernodes."""
    input:
        rules.cache.output,
        rules.group.output,
    output:
        graphs=f"{RUN}/attribute.parquet",
        edges=f"{RUN}/attribute_edges.parquet",
        evidence=f"{RUN}/attribute_evidence.parquet",
        shown=f"{RUN}/graphs.json",
    log:
        f"{RUN}/attribute.log",
    threads: CONFIG.threads
    resources:
        mem_mb=6000,
        runtime=120,
        gpu=gpu,
    params:
        case=lambda w: fingerprint(CASES[w.model, w.case], "prompts", "items", "supernodes", "experiments"),
        stated=lambda w: contents_hash(Path("experiments"), f"{w.case}/mechanism.yaml"),
        budget=CONFIG.attribution.model_dump_json(),
        draws=f"{CONFIG.statistics.control_draws} draws, seed {CONFIG.statistics.seed}",
        code=lambda w: stage_hash("stages.attribute"),
    message:
        "{wildcards.model}, {wildcards.case}: tracing attribution graphs"
    shell:
        "biology attribute --model {wildcards.model:q} --case {wildcards.case:q} > {log:q} 2>&1"


# 5. Perturbation experiments -----------------------------------------------------------------------------------------
rule intervene:
    """Inhibitions, injections and swaps, each beside its controls: matched features, wrong donor, wrong position."""
    input:
        rules.cache.output,
        rules.group.output,
    output:
        evidence=f"{RUN}/intervene.parquet",
        panel=f"{RUN}/intervene_panel.parquet",
    log:
        f"{RUN}/intervene.log",
    priority: 1
    threads: perturbing
    resources:
        mem_mb=lambda w, threads: 5000 + 1000 * threads,
        runtime=240,
        gpu=gpu,
    params:
        case=lambda w: fingerprint(CASES[w.model, w.case], "prompts", "items", "supernodes", "experiments"),
        draws=f"{CONFIG.statistics.control_draws} draws, seed {CONFIG.statistics.seed}",
        code=lambda w: stage_hash("stages.intervene"),
    message:
        "{wildcards.model}, {wildcards.case}: perturbing"
    shell:
        "biology intervene --model {wildcards.model:q} --case {wildcards.case:q} --cores {threads:q} > {log:q} 2>&1"


# Beside them, without transcoders -------------------------------------------------------------------------------------
rule exchange:
    """Mean residual streams exchanged between prompts: whether the model has what the cases look for."""
    input:
        model_files,
    output:
        streams="data/runs/{model}/streams.parquet",
        summary="reports/{model}/streams.csv",
    log:
        "data/runs/{model}/exchange.log",
    threads: CONFIG.threads
    resources:
        mem_mb=4000,
        runtime=30,
        gpu=gpu,
    params:
        model=lambda w: CONFIG.model(w.model).identity,
        cases=lambda w: [
            fingerprint(CASES[w.model, case], "items", "streams", "experiments") for case in MODELS[w.model]
        ],
        statistics=CONFIG.statistics.model_dump_json(),
        corpus=corpus,
        code=lambda w: stage_hash("stages.exchange"),
    message:
        "{wildcards.model}: exchanging residual streams"
    shell:
        "biology exchange --model {wildcards.model:q} > {log:q} 2>&1"


rule sweep:
    """The named prompts steered on a grid of strengths: by supernodes, for the page on which one steers, and by single features."""
    input:
        rules.cache.output,
        rules.group.output,
        graphs=f"{RUN}/graphs.json",
    output:
        f"{RUN}/steering.parquet",
        f"{RUN}/node_steering.parquet",
    log:
        f"{RUN}/sweep.log",
    threads: CONFIG.threads
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=gpu,
    params:
        case=lambda w: fingerprint(CASES[w.model, w.case], "prompts", "items", "supernodes", "experiments"),
        code=lambda w: stage_hash("stages.sweep"),
    message:
        "{wildcards.model}, {wildcards.case}: steering on a grid"
    shell:
        "biology sweep --model {wildcards.model:q} --case {wildcards.case:q} > {log:q} 2>&1"


rule atlas:
    """Every feature of the transcoders: what it answers to, on a sample of prompts, and what it says."""
    input:
        "data/runs/{model}/load.json",
    output:
        "data/runs/{model}/atlas.parquet",
        "data/runs/{model}/atlas_prompts.parquet",
    log:
        "data/runs/{model}/atlas.log",
    threads: CONFIG.threads
    resources:
        mem_mb=6000,
        runtime=60,
        gpu=gpu,
    params:
        cases=lambda w: [fingerprint(CASES[w.model, case], "prompts", "items") for case in MODELS[w.model]],
        corpus=corpus,
        code=lambda w: stage_hash("stages.atlas"),
    message:
        "{wildcards.model}: surveying all features"
    shell:
        "biology atlas --model {wildcards.model:q} > {log:q} 2>&1"
