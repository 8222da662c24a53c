"""The Snakefile plans what it should: stages in order, nothing twice, and only what a change concerns.

The workflow runs for real, on a copy of the repository in which every command is a stub that writes down its name and
empty outputs. The real commands run in `.ci/run`.
"""

import ast
import fcntl
import re
import shutil
import zipfile
from pathlib import Path

import pytest
from stage_rules import RULES, SNAKEFILE
from warm_snakemake import Runs

from biology.__main__ import CONTENTS
from biology.provenance import READERS, sources
from biology.workflow.targets import Targets

ROOT = Path(__file__).parents[1]
# every stage up to the verdicts; graphs and perturbations run in parallel, so in either order
NO_MATTER = {"report.pages"}  # gives `judge` the manifest of a model and nothing else
TORCH = {"load", "measure", "compare-dictionaries", "predict-ablations", "superpose", "cache", "group", "decompose", "attribute", "intervene", "exchange", "sweep", "atlas"}  # fmt: skip
UP_TO_VERDICTS = {"load", "cache", "group", "attribute", "intervene", "tabulate", "judge"}
STUB = """
import sys
from pathlib import Path

OUTPUTS = {
    "fetch": ["{run}/fetch.json"],
    "load": ["{run}/load.json", "{run}/fidelity.parquet"],
    "cache": ["{run}/{case}/cache.safetensors", "{run}/{case}/cache.parquet"],
    "group": ["{run}/{case}/%s.parquet" % table for table in ("group", "group_sites", "group_operands", "group_plots")],
    "attribute": ["{run}/{case}/attribute.parquet", "{run}/{case}/attribute_edges.parquet",
                  "{run}/{case}/attribute_evidence.parquet", "{run}/{case}/graphs.json"],
    "intervene": ["{run}/{case}/intervene.parquet", "{run}/{case}/intervene_panel.parquet"],
    "tabulate": ["{run}/{case}/%s.parquet" % table for table in
                 ("prompts", "evidence", "graphs", "edges", "supernodes", "sites", "panel", "fidelity",
                  "operands", "operand_plots")],
    "measure": ["{run}/%s.parquet" % table for table in ("dictionary", "density", "token_errors")],
    "compare-dictionaries": ["{run}/comparison.parquet", "reports/{model}/dictionaries.csv"],
    "predict-ablations": ["{run}/ablation_prediction.parquet", "reports/{model}/ablation_prediction.csv", "figures/{model}/ablation_prediction.svg"],
    "decompose": ["reports/{model}/site_parts.csv"],
    "superpose": ["reports/superposition.csv", "figures/superposition.svg"],
    "draw-dictionary": ["figures/{model}/{figure}.svg", "figures/{model}/{figure}.png"],
    "exchange": ["{run}/streams.parquet", "reports/{model}/streams.csv"],
    "compare": ["reports/robustness.csv", "reports/discrimination.csv"],
    "passing": ["reports/{model}/passing.csv"],
    "card": ["reports/{model}/README.md"],
    "sweep": ["{run}/{case}/steering.parquet", "{run}/{case}/node_steering.parquet"],
    "atlas": ["{run}/atlas.parquet", "{run}/atlas_prompts.parquet"],
    "judge": ["reports/{model}/verdicts.csv", "{run}/parts.parquet", "{run}/clusters.parquet"],
    "draw": ["figures/{model}/{case}/{figure}.svg", "figures/{model}/{case}/{figure}.png"],
    "draw-story": ["figures/{model}/{case}/story.svg", "figures/{model}/{case}/story.png"],
    "write": ["reports/{model}/{case}.html", "reports/{model}/{case}_prompts.csv"],
    "members": ["reports/{model}/supernodes.csv", "reports/{model}/labels.json"],
    "lab": ["reports/{model}/lab.html"],
}


def main():
    stage, options = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2]))
    if (stage, options.get("--model")) == ("fetch", "gemma-2-2b"):
        sys.exit("error: 'gemma-2-2b' is to run on a GPU, and there is none here")
    words = {key: options.get("--" + key, "") for key in ("model", "case", "figure", "page")}
    words["run"] = "data/runs/" + words["model"]
    with open("calls.txt", "a") as file:
        print(" ".join([stage, *filter(None, (words["case"], words["figure"], words["page"]))]), file=file)
    page = ["reports/{model}/{page}.html"] if words["page"] else OUTPUTS[stage]
    for name in page if words["model"] or stage in ("compare", "superpose") else ["reports/index.html", "reports/glossary.html", "reports/add_a_prompt.html", "reports/docs.html"]:
        path = Path(name.format(**words))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(stage)
"""


@pytest.fixture(scope="module")
def snakemake():
    """Runs snakemake; its exit code, what it said, and the commands that it ran, sorted."""
    with Runs() as runs:

        def run(root, *arguments):
            calls, log = root / "calls.txt", root.parent / "said.txt"
            calls.write_text("")
            words = (*(arguments or ("figures/all",)), "--cores", "2")
            code = runs(root, *words, log=log, XDG_CACHE_HOME=str(root / ".cache"))
            return code, log.read_text(), calls.read_text().splitlines()

        yield run


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def finished(snakemake, tmp_path_factory):
    """A repository with two cases on which everything has run, and the commands in the order of running."""
    root = tmp_path_factory.mktemp("finished") / "repository"
    shutil.copytree(ROOT / "src/biology", root / "src/biology", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "profiles", root / "profiles")
    shutil.copytree(ROOT / "docs", root / "docs")
    shutil.copy(ROOT / "Snakefile", root)
    shutil.copytree(ROOT / "rules", root / "rules")
    shutil.copy(ROOT / "GLOSSARY.md", root)
    for case in ("first", "second"):
        shutil.copytree(ROOT / "experiments/_template", root / "experiments" / case)
    (root / "experiments/claims.lock").write_text("{}")
    (root / "experiments/twins.csv").write_text("twin,claim,expected,why\n")
    (root / "config.yaml").write_text(
        "models: {elegans: {path: data/models/elegans, transcoders: data/models/elegans/transcoders}}\n"
    )
    weights = root / "data/models/elegans/model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_text("weights")
    shutil.copy(ROOT / "data/models/elegans/config.json", weights.parent)  # it fits into a page
    (root / "src/biology/__main__.py").write_text(STUB)
    code, said, calls = snakemake(root)
    assert code == 0, said
    return root, calls


@pytest.fixture
def root(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "repository", symlinks=True)


def test_the_stages_run_in_order(finished):
    calls = [call for call in finished[1] if "second" not in call]
    place = {call.split()[0]: number for number, call in enumerate(calls)}
    for before, after in [
        ("load", "cache"), ("cache", "group"), ("group", "attribute"), ("group", "intervene"),
        ("attribute", "tabulate"), ("intervene", "tabulate"), ("tabulate", "judge"), ("judge", "draw"),
        ("judge", "write"), ("draw", "write"), ("load", "atlas"), ("attribute", "sweep"), ("atlas", "lab"), ("members", "lab"),
    ]:  # fmt: skip
        assert place[before] < place[after], calls
    assert calls.count("load") == calls.count("judge") == 1
    assert "draw first supernode_graph" in calls and "draw first inhibition_panel" in calls


def test_snakemake_can_wrap_everything_in_a_report(snakemake, root):
    """Pages, figures and verdicts with their captions; what Snakemake writes of itself is Snakemake's business."""
    code, said, calls = snakemake(root, "--report", "report.zip")
    assert code == 0 and calls == [], said
    with zipfile.ZipFile(root / "report.zip") as made:
        page = made.read("report/report.html").decode("utf-8")
        names = {Path(name).name for name in made.namelist()}
    assert {"index.html", "first.html", "atlas.html", "lab.html", "verdicts.csv", "supernode_graph.svg"} <= names
    for text in ("Verdicts", "Pages", "Figures", "computed verdict for every claim", "on its own"):
        assert text in page, text


def test_a_second_run_at_once_is_one_line_and_a_later_one_does_nothing(snakemake, root):
    """While a run is at work another one may only look; the lock is the operating system's, so its file locks nothing."""
    with (root / ".snakemake/running").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, said, calls = snakemake(root)
        assert code != 0 and calls == [] and "Traceback" not in said
        assert len(re.findall("^error: snakemake already runs in .*wait for it", said, flags=re.MULTILINE)) == 1
        assert snakemake(root, "figures/all", "-np")[0] == 0
    code, said, calls = snakemake(root, "figures/all", "reports/all")
    assert code == 0 and calls == [] and "Nothing to be done" in said


def test_a_deleted_figure_comes_back_alone(snakemake, root):
    """No other figure is drawn; the report that shows it is written again, which takes a second."""
    lost = root / "figures/elegans/first/supernode_graph.png"
    lost.unlink()
    calls = snakemake(root)[2]
    assert calls == ["draw first supernode_graph", "write first", "write"]
    assert lost.is_file()


def test_lost_results_are_noticed(snakemake, root):
    shutil.rmtree(root / "data/runs")
    _, _, calls = snakemake(root, "figures/all")
    assert {call.split()[0] for call in calls} >= UP_TO_VERDICTS


def test_a_comment_in_a_torch_module_costs_nothing(snakemake, root):
    """Nor does another way to write a rule's command."""
    edit(
        root / "rules/models.smk",
        "biology load --model {wildcards.model:q} >",
        "biology load  --model {wildcards.model:q} >",
    )
    for module in ("attribution/assembly", "attribution/graph", "models/model", "interventions/protocols"):
        with (root / f"src/biology/{module}.py").open("a") as file:
            file.write("\n# a comment\n")
    assert snakemake(root)[2] == []


@pytest.mark.parametrize(
    ("module", "old", "new", "stages"),
    [
        ("evidence/graph_tables.py", 'ANSWER = "answer"', 'ANSWER = "the answer"', {"attribute", "sweep"}),
        ("evidence/perturbation.py", "ENOUGH = 0.95", "ENOUGH = 0.9", {"intervene", "exchange"}),
        ("supernodes/atlas.py", "= 800, 100", "= 900, 100", {"atlas"}),
        ("report/pages.py", "import annotations", "import annotations\n\nTEN = 10", set()),
    ],
    ids=["graphs", "perturbations", "atlas", "pages"],
)
def test_changed_code_reruns_the_stages_that_rest_on_it_and_what_follows(snakemake, root, module, old, new, stages):
    """`sweep` steers on the graphs of `attribute`."""
    edit(root / "src/biology" / module, old, new)
    calls = {call.split()[0] for call in snakemake(root)[2]}
    assert calls & TORCH == stages and "write" in calls and ("tabulate" in calls) == bool(stages & UP_TO_VERDICTS)


def test_every_rule_that_needs_torch_names_the_function_that_its_command_calls():
    named = {name: re.search(r'code=lambda w: stage_hash\("([\w.]+)"\)', rule) for name, rule in RULES.items()}
    named = {rule: found[1] for rule, found in named.items() if found}
    assert {rule.replace("_", "-") for rule in named} == TORCH
    commands = {name: function for section in CONTENTS.values() for name, (function, _) in section.items()}
    for rule, stage in named.items():
        function = commands[rule.replace("_", "-")]
        assert f"{function.__module__}.{function.__name__}" == f"biology.cli.{stage}"


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("evidence/contrasts.py", {"tabulate", "passing", "judge", "members", "draw", "write", "lab"}),
        ("verdicts/claims.py", {"judge", "draw", "write"}),
        ("figures/graph_layout.py", {"draw", "write"}),  # it lays out the figure of a graph, too
        ("report/explorer.py", {"write"}),
        (
            "figures/paper.mplstyle",
            {"draw", "draw-dictionary", "write"},
        ),  # the look of all figures, and of nothing else
    ],
)
def test_a_change_above_the_tables_needs_no_torch(snakemake, root, name, stages):
    with (root / "src/biology" / name).open("a") as file:
        file.write("\n# changed\n")
    assert {call.split()[0] for call in snakemake(root)[2]} == stages


def test_a_new_prompt_reruns_its_case_only(snakemake, root):
    """What the other case shows of the verdicts is made anew, because Holm's correction spans all cases."""
    edit(
        root / "experiments/first/case.yaml",
        "prompts:\n  dallas:",
        'prompts:\n  new: {text: a, answer: " b"}\n  dallas:',
    )
    calls = snakemake(root)[2]
    assert "cache first" in calls
    assert not [call for call in calls if "second" in call and not call.startswith(("draw", "write"))]
    assert "load" not in calls


def test_a_new_figure_is_drawn_without_torch(snakemake, root):
    edit(root / "experiments/first/case.yaml", "figures: [", "figures: [fidelity, ")
    assert sorted(snakemake(root)[2]) == ["draw first fidelity", "write", "write first"]


def test_a_copied_folder_is_a_case(snakemake, root):
    shutil.copytree(ROOT / "experiments/_template", root / "experiments/My-third.case")
    calls = snakemake(root)[2]
    assert "cache My-third.case" in calls and not [call for call in calls if call.startswith(("load", "cache first"))]


def test_new_weights_rerun_everything(snakemake, root):
    (root / "data/models/elegans/model.safetensors").write_text("other weights")
    calls = snakemake(root)[2]
    assert "load" in calls and "cache first" in calls and "cache second" in calls


def test_a_control_runs_on_request_only_and_the_shown_models_stay(snakemake, root):
    edit(
        root / "config.yaml",
        "elegans/transcoders}",
        "elegans/transcoders}, nothing: {path: data/models/elegans, transcoders: data/models/elegans/transcoders,"
        " shuffled: 0, role: random, of: elegans, cases: [first]}",
    )
    assert snakemake(root)[2] == []
    code, _, calls = snakemake(root, "robustness/all")
    assert code == 0 and sorted(call.split()[0] for call in calls) == sorted({*UP_TO_VERDICTS, "compare"})
    assert (root / "reports/nothing/verdicts.csv").is_file() and not (root / "figures/nothing").exists()
    shutil.rmtree(root / "data/runs/nothing")  # as in a fresh clone, whose verdicts of controls are those committed
    assert "judge" in [call.split()[0] for call in snakemake(root, "robustness/all")[2]]


def test_a_further_size_waits_for_the_model_that_it_is_a_size_of(snakemake, root):
    edit(
        root / "config.yaml",
        "elegans/transcoders}",
        "elegans/transcoders}, wide: {path: data/models/wide, transcoders: data/models/wide/transcoders,"
        " role: size, of: elegans, cases: [first]}",
    )
    for name in ("model.safetensors", "transcoders/record.json"):
        (root / "data/models/wide" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "data/models/wide" / name).write_text("weights")
    shutil.rmtree(root / "data/runs/elegans/first")
    snakemake(root, "robustness/all")
    assert not (root / "data/runs/wide").exists()
    code, said, calls = snakemake(root, "extensions/all", "--config", "model=wide")
    assert code == 0, said
    assert calls.count("tabulate first") == 2 and (root / "reports/wide/verdicts.csv").is_file()
    edit(root / "data/models/elegans/model.safetensors", "weights", "others")
    assert snakemake(root, "extensions/all", "--config", "model=wide")[2].count("tabulate first") == 2


@pytest.fixture
def natural(root):
    """One of the two cases has prompts for models of others."""
    edit(root / "experiments/first/case.yaml", "# prompt_set:", "prompt_sets: {natural: some.csv}\n#")
    (root / "experiments/first/some.csv").write_text(
        "item,text,answer,cluster,split,role\na,b,c,d,heldout,score\ne,f,c,d,dev,score\n"
    )
    return root


def test_a_known_model_is_all_a_user_types(snakemake, natural):
    """It is fetched first, meets the cases that have prompts for it, and leaves the models of config.yaml alone."""
    arguments = ("--config", "model=gemma-3-270m")
    code, said, calls = snakemake(natural, "figures/all", *arguments)
    assert code == 0, said
    assert (
        "gemma-3-270m: no page lab: a page holds models of at most 4 million parameters" in said and "lab" not in calls
    )
    assert calls[0] == "fetch" and {"load", "cache first"} <= set(calls) and not [c for c in calls if "second" in c]
    assert (natural / "reports/gemma-3-270m/verdicts.csv").is_file()
    assert (natural / "figures/gemma-3-270m/first/supernode_graph.svg").is_file()
    code, said, calls = snakemake(natural, "figures/all", *arguments)
    assert code == 0 and calls == [] and "Nothing to be done" in said
    assert snakemake(natural)[2] == ["write"]  # of all that is there of elegans only the index, which lists both


def test_a_known_model_may_be_an_entry(snakemake, natural):
    edit(natural / "config.yaml", "models: {", "models: {gemma: {known: gemma-3-270m, device: cuda}, ")
    code, said, calls = snakemake(natural)
    assert code == 0, said
    assert calls[0] == "fetch" and "cache first" in calls and (natural / "reports/gemma/verdicts.csv").is_file()


def test_what_does_not_fit_is_said_before_anything_is_fetched(snakemake, natural):
    code, said, calls = snakemake(natural, "figures/all", "--config", "model=gemma-2-2b")
    assert code != 0 and calls == [] and "error: 'gemma-2-2b' is to run on a GPU, and there is none here" in said


def test_config_takes_a_model_and_nothing_else(snakemake, root):
    code, said, calls = snakemake(root, "figures/all", "--config", "model=elegans", "threads=4")
    assert code != 0 and calls == [] and "error: --config takes model=NAME and nothing else" in said
    code, said, calls = snakemake(root, "figures/all", "--config", "model=gemma")
    assert (
        code != 0 and calls == [] and "error: unknown model 'gemma'. Did you mean" in said and "Traceback" not in said
    )
    assert snakemake(root, "figures/all", "--config", "model=elegans")[2] == []


def test_a_misspelt_key_is_one_line(snakemake, root):
    edit(root / "config.yaml", "path:", "pth:")
    code, said, calls = snakemake(root)
    assert code != 0 and calls == []
    assert "error: config.yaml: models.elegans: unknown key 'pth'. Did you mean 'path'?" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("case.yaml", "outcomes: [answer_probability]", "outcomes: [answer_probabilty]", "Did you mean 'answer_probability'?"),
        ("case.yaml", "outcomes: [answer_probability]", 'outcomes: ["activation:txeas"]', "unknown supernode 'txeas'. Did you mean 'texas'?"),
        ("case.yaml", "    direction: decrease", "    only: {city: Dalas}\n    direction: decrease", "unknown level 'Dalas' of city. Did you mean 'Dallas'?"),
        ("case.yaml", "figures: [supernode_graph", "figures: [supernode_grpah", "unknown figure 'supernode_grpah'. Did you mean 'supernode_graph'?"),
        ("claims.yaml", "control: match", "control: mtach", "Did you mean 'match'?"),
    ],
)  # fmt: skip
def test_what_a_case_file_names_and_is_not_there_is_one_line_before_anything_runs(
    snakemake, root, file, old, new, said
):
    edit(root / "experiments/first" / file, old, new)
    code, told, calls = snakemake(root, "--dry-run")
    assert code != 0 and calls == [] and "Traceback" not in told
    (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: experiments/first/{file}: ") and said in line


def test_rules_without_torch_declare_every_module_that_their_command_calls():
    """So that a result is made anew when any module changes that it, or a module that it imports, came from."""
    declared = {name: re.search(r"\bcode\(([^)]*)\)", rule) for name, rule in RULES.items()}
    rules = {rule: re.findall(r'"([\w.]+)"', found[1]) for rule, found in declared.items() if found}
    commands = {}
    for module in ("table_stages", "dictionary_commands"):
        for node in ast.parse((ROOT / f"src/biology/cli/{module}.py").read_text()).body:
            if isinstance(node, ast.FunctionDef):
                inside = [inner.module for inner in ast.walk(node) if isinstance(inner, ast.ImportFrom)]
                commands[node.name] = {name.removeprefix("biology.") for name in inside if name} - READERS
    for rule, command in {
        "tabulate": "tabulate", "judge": "judge", "compare": "compare", "draw": "draw", "draw_dictionary": "draw_dictionary",
    }.items():  # fmt: skip
        assert commands[command] <= {*sources(*rules[rule]), *NO_MATTER}, rule
    pages = {module for rule in ("write", "write_page", "write_index") for module in sources(*rules[rule])}
    assert commands["write"] <= pages


def test_what_runs_the_prompts_of_a_corpus_first_names_it():
    """`corpora.twins` is no part of a stage's code (`READERS`); later stages run again because their inputs do."""
    assert {name for name, rule in RULES.items() if "corpus=corpus" in rule} == {"cache", "exchange", "atlas"}


def test_every_name_in_a_command_is_quoted():
    commands = re.findall(r'^    shell:\n((?:        ".*"\n)+)', SNAKEFILE, flags=re.MULTILINE)
    assert len(commands) == len(re.findall(r"^    shell:", SNAKEFILE, flags=re.MULTILINE))
    placeholders = re.findall(r"\{[^{}]*\}", "".join(commands))
    assert placeholders and not [placeholder for placeholder in placeholders if not placeholder.endswith(":q}")]


def test_growing_is_only_done_on_request():
    assert "output:" not in RULES["grow"]


def test_another_seed_is_grown_on_the_corpus_of_its_model(monkeypatch):
    monkeypatch.chdir(ROOT)
    grown = {
        name: Targets(name, ROOT / "src/biology").organisms[name].options
        for name in ("elegans-seed1", "elegans-languages-seed1", "medical_diagnosis-seed1")
    }
    assert {name: (options["corpus"], options["case"], options["seed"]) for name, options in grown.items()} == {
        "elegans-seed1": (None, None, 1), "elegans-languages-seed1": ("languages", None, 1),
        "medical_diagnosis-seed1": (None, "medical_diagnosis", 1),
    }  # fmt: skip
