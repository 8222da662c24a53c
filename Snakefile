"""The Methods section: one rule per stage, in the order of the work.

    load -> cache -> group -> attribute -> intervene -> tabulate -> judge -> draw -> write

A stage is one word: rule, command (`biology <stage>`) and section below. Jobs are per model and case, never per prompt:
importing the model library costs seconds, so one process takes all prompts of a case. Growing the embedded model and
training its transcoders are rules too, but only on request (last section); what ships is the default.

    snakemake figures/all --cores 8              everything
    snakemake reports/all --cores 8              verdicts and reports
    snakemake figures/all --dry-run              what would be done

When does a stage run again? Stages that need torch: when their inputs, the settings and parts of case.yaml that they
read, or the code that they rest on change (src/biology/provenance.py says what counts); an edited comment is free. The
other stages take seconds, so they run again whenever a module that does their work changes. The command line of a rule is
no reason (`rerun-triggers` in profiles/default): all that it passes on are names.
"""

import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.cli import get_argument_parser
from snakemake.utils import min_version

from biology.artefacts import contents_hash
from biology.cases.case import TEXTS, fingerprint
from biology.cases.claim_file import load_claims
from biology.records import InputError
from biology.folders import FIRST_STAGE, hold
from biology.grammar import NAME
from biology.provenance import stage_hash
from biology.workflow.targets import DICTIONARY_TABLES, RUN, TABLES, Targets, case_code

min_version("9.0")


report: "docs/report/workflow.rst"


# Two runs in one folder would take each other's files away. A dry run may look on.
if workflow.is_main_process and not get_argument_parser().parse_known_args()[0].dryrun:
    try:
        hold(
            ".snakemake/running",
            f"snakemake already runs in {os.getcwd()}: wait for it, or work in another --directory",
        )
    except InputError as error:
        sys.exit(f"error: {error}")

if set(config) - {"model"}:
    sys.exit("error: --config takes model=NAME and nothing else; all other settings are read from config.yaml.")
try:  # the working directory may be a folder of one's own (snakemake --directory)
    asked = Targets(config.get("model"), Path(os.path.relpath(workflow.basedir)) / "src/biology")
except InputError as error:
    sys.exit(f"error: {error}")

# What the rules speak of: src/biology/workflow/targets.py says what each is.
CONFIG, MODELS, CASES = asked.config, asked.models, asked.cases
SHOWN, CALIBRATED, CONTROLS, EXTENSIONS = asked.shown, asked.calibrated, asked.controls, asked.extensions
ORGANISMS, GROWN, COMPARED = asked.organisms, asked.grown, asked.compared
FIGURES, DICTIONARIES, VERDICTS, REPORTS = asked.figures, asked.dictionaries, asked.verdicts, asked.reports
CASE_PAGES, MODEL_PAGES, LABS = asked.case_pages, asked.model_pages, asked.labs
STYLE, TEMPLATES = asked.style, asked.templates
streams, tables, code, weights, model_files = asked.streams, asked.tables, asked.code, asked.weights, asked.model_files
prompts_of_cases, gpu, corpus = asked.prompts_of_cases, asked.gpu, asked.corpus
other_size, of_page, site_parts, searching = asked.other_size, asked.of_page, asked.site_parts, asked.searching
if workflow.is_main_process:
    for model, reason in asked.refused.items():
        if reason:
            print(f"{model}: no page lab: {reason}", file=sys.stderr)


# The threads of a process are fixed, whatever the number of cores: sums in another order would give other bytes.
shell.prefix(
    f'set -euo pipefail; unset PYTHONDONTWRITEBYTECODE; export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"'
    f" PYTHONHASHSEED=0 OMP_NUM_THREADS={CONFIG.threads} MKL_NUM_THREADS={CONFIG.threads} TOKENIZERS_PARALLELISM=false"
    " HF_HUB_OFFLINE=1 WANDB_MODE=disabled; "
)


wildcard_constraints:
    model=NAME,
    case=NAME,
    figure="[a-z][a-z0-9_-]*",
    page="atlas|steer",


ruleorder: lab > write_page > write
ruleorder: draw_story > draw


# A nameless rule with a name and no output is a true phony target: a deleted figure is always noticed. A file called
# figures/all would go stale without a word.
rule:
    """All figures, verdicts and reports."""
    name:
        "figures/all"
    default_target: True
    input:
        FIGURES,
        DICTIONARIES,
        VERDICTS,
        REPORTS,
        [f"reports/{model}/dictionaries.csv" for model in COMPARED],
        [f"reports/{model}/passing.csv" for model in SHOWN],
        [f"reports/{model}/README.md" for model in SHOWN if CONFIG.model(model).sources],
        site_parts(SHOWN),
        streams(SHOWN),
        tables(SHOWN),
    message:
        "all figures, verdicts and reports are there"


rule:
    """The verdicts of further seeds, and of twins and random controls, in which no mechanism may be found."""
    name:
        "robustness/all"
    input:
        "reports/robustness.csv",
        streams(CONTROLS),
        tables(CONTROLS),
    message:
        "all seeds, twins and controls are judged"


rule:
    """What verdicts are worth: those on models with planted mechanisms, of whose claims the truth is known."""
    name:
        "calibration/all"
    input:
        "reports/calibration.csv",
        tables(CALIBRATED),
    message:
        "all planted models are judged"


rule:
    """The verdicts of further sizes and corpora, of which some claims speak."""
    name:
        "extensions/all"
    input:
        "reports/superposition.csv",
        [f"reports/{model}/verdicts.csv" for model in EXTENSIONS],
        streams(EXTENSIONS),
        tables(EXTENSIONS),
    message:
        "all further sizes and corpora are judged"


rule:
    """All verdicts and reports, with the figures that they show."""
    name:
        "reports/all"
    input:
        VERDICTS,
        REPORTS,
    message:
        "all verdicts and reports are there"


def perturbing(wildcards):
    """Cores of a job that perturbs, which takes most of a case's time: those that are left if each case has one."""
    alone = CONFIG.threads > 1 or gpu(wildcards)  # such a model is not shared between processes
    together = [pair for pair in CASES if (pair[0] in SHOWN) == (wildcards.model in SHOWN)]
    return CONFIG.threads if alone else max(1, (workflow.cores or 1) // len(together))


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


# 6. The waist: tidy tables. Nothing below needs torch, or a GPU, or more than a laptop -------------------------------
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
            caption="docs/report/verdicts.rst",
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
            caption="docs/report/figure.rst",
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
            caption="docs/report/case.rst",
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
            caption="docs/report/page.rst",
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
            caption="docs/report/lab.rst",
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
            caption="docs/report/index.rst",
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


# What does not ship: organisms, and transcoders of models that are held against others -------------------------------
rule grow_organism:
    """A planted model of one case, or a twin that lacks its mechanism; then its certificate."""
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
        stated=lambda w: contents_hash(
            Path("experiments") / ORGANISMS[w.model]["case"], "mechanism.yaml", "twins/*.yaml", "prompts.csv"
        ),
        of=lambda w: [f"--{option}={value}" for option, value in ORGANISMS[w.model].items() if value],
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
