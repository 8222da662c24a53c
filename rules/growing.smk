"""Rules that grow models, and train the transcoders of models that were grown here: only on request."""


# What does not ship: organisms, and transcoders of models that are held against others -------------------------------
rule grow_organism:
    """A planted model of one case, a twin that lacks its mechanism, or another seed; then its certificate."""
    output:
        expand("data/models/{{model}}/{file}", file=["model.safetensors", "record.json", "heldout.parquet"]),
    log:
        "data/runs/{model}/grow_organism.log",
    wildcard_constraints:
        model="|".join(map(re.escape, ORGANISMS)) or "none",
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        stated=lambda w: "".join(
            contents_hash(Path("experiments") / case, "mechanism.yaml", "twins/*.yaml", "prompts.csv")
            for case in ORGANISMS[w.model].cases
        ),
        of=lambda w: [f"--{option}={value}" for option, value in ORGANISMS[w.model].options.items() if value],
    message:
        "{wildcards.model}: growing and certifying it"
    shell:
        "(biology grow {params.of:q} --out data/models/{wildcards.model:q}"
        " && biology certify {params.of:q} --out data/models/{wildcards.model:q}) > {log:q} 2>&1"


rule train_transcoders:
    """The per-layer transcoders of a model that was grown here, with the recipe of elegans; never those that ship."""
    input:  # a first stage is kept beside the model that it became
        lambda w: f"data/models/{w.model.removesuffix('/' + FIRST_STAGE)}/model.safetensors",
    output:
        "data/models/{model}/transcoders/record.json",
    log:
        "data/runs/{model}/train_transcoders.log",
    wildcard_constraints:
        model=f"({'|'.join(map(re.escape, GROWN)) or 'none'})(/{FIRST_STAGE})?",
    resources:
        mem_mb=6000,
        runtime=90,
    message:
        "{wildcards.model}: training transcoders"
    shell:
        "biology train-transcoders --out data/models/{wildcards.model:q} > {log:q} 2>&1"


# On request: the embedded model from scratch -------------------------------------------------------------------------
# No outputs are declared, so that nothing but asking for it by name ever runs it.
rule grow:
    """Grows elegans from its corpus; replaces the shipped weights."""
    threads: 2
    resources:
        mem_mb=6000,
        runtime=90,
    shell:
        "biology organism"
