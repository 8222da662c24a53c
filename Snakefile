"""The Methods section: one rule per stage. This file says what a run makes; the rules stand in `rules`, in the order of the work.

    load -> cache -> group -> attribute -> intervene -> tabulate -> judge -> draw -> write

A stage is one word: a rule, and the command that it runs (`biology <stage>`). Jobs are per model and case, never per prompt:
importing the model library costs seconds, so one process takes all prompts of a case. Growing the embedded model and
training its transcoders are rules too, but only on request (rules/growing.smk); what ships is the default.

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
from biology.cases.case import fingerprint
from biology.cases.claim_file import load_claims
from biology.records import InputError
from biology.folders import FIRST_STAGE, hold
from biology.grammar import NAME
from biology.provenance import stage_hash
from biology.report.prose import TEXTS
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


# The stages, in the order of the work.
include: "rules/models.smk"  # load
include: "rules/evidence.smk"  # cache, group, attribute, intervene
include: "rules/verdicts.smk"  # tabulate, judge
include: "rules/pages.smk"  # draw, write
include: "rules/growing.smk"  # what does not ship
