"""The first and the last lines of `make figures`: what is to do and how long, what came out; counted from what lies there."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from biology.__main__ import main
from biology.config import load_config
from biology.report.run_plan import (
    CaseRun,
    Progress,
    case_runs,
    plan_told,
    stage_seconds,
    summary_told,
    verdict_counts,
)
from biology.tables import read_table

ROOT = Path(__file__).parents[1]


def test_what_is_to_do_is_what_has_no_results(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "models:\n  a: {path: x, transcoders: y, planted: true}\n  b: {path: x, transcoders: y, role: random, shuffled: 0, of: a}\n"
        "  c: {path: z, transcoders: y, cases: [multi_hop]}\n"
    )
    for name in ("multi_hop", "addition"):
        (tmp_path / "experiments" / name).mkdir(parents=True)
        (tmp_path / "experiments" / name / "case.yaml").touch()
    (tmp_path / "benchmarks").mkdir()
    spent = {
        "cases": {"multi_hop": {"seconds": {"cache": 30.0, "intervene": 70.0, "rest": 20.0}}},
        "load": 50.0,
        "judge": 10.0,
    }
    (tmp_path / "benchmarks/costs.json").write_text(json.dumps(spent))
    config = load_config(tmp_path / "config.yaml")
    assert case_runs(tmp_path, config) == [
        CaseRun("a", "addition", False, None), CaseRun("a", "multi_hop", False, 180.0, 70.0), CaseRun("c", "multi_hop", False, None)
    ]  # fmt: skip
    for file in ("reports/a/multi_hop.html", "data/runs/a/multi_hop/evidence.parquet"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert [one.done for one in case_runs(tmp_path, config)] == [False, True, False]
    assert [one.model for one in case_runs(tmp_path, config, "b")] == ["b", "b"]


@pytest.mark.parametrize(
    ("cores", "said"),
    [
        (1, "About 30 min on 1 core"),
        (2, "About 20 min on 2 cores"),
        (3, "About 20 min on 3 cores"),
        (4, "About 12 min on 4 cores"),
        (64, "About 10 min on 64 cores"),
    ],
)
def test_the_longest_case_sets_the_pace(cores, said):
    """And it is shorter where several cores share what perturbs."""
    todo = [CaseRun("a", "x", False, 1200.0, 960.0), CaseRun("a", "y", False, 600.0), CaseRun("a", "z", True, 6000.0)]
    assert said in plan_told(todo, cores) and "z                  there" in plan_told(todo, cores)
    assert "what was not measured" in plan_told([*todo, CaseRun("a", "w", False, None)], cores)
    assert "All of it is there" in plan_told(todo[2:], cores)


def test_verdicts_are_counted_by_model_and_case():
    config = load_config(ROOT / "config.yaml")
    rows = verdict_counts(ROOT, case_runs(ROOT, config))
    judged = read_table(ROOT / "reports/elegans/verdicts.csv", "verdicts")
    for row in rows:
        if row["model"] == "elegans":
            here = judged[judged["case"] == row["case"]]
            assert row["replicated"] == (here["verdict"] == "replicated").sum()
            assert sum(count for key, count in row.items() if key not in ("model", "case")) == len(here)
    assert "reports/index.html" in summary_told(rows) and "Nothing has been judged" in summary_told([])


def test_make_figures_begins_with_the_plan_and_ends_with_the_summary(capsys, monkeypatch):
    def commands(**variables):
        given = [f"{name}={value}" for name, value in variables.items()]
        made = subprocess.run(
            ["make", "--dry-run", "figures", *given], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return re.findall(r"^\.venv/bin/(biology|snakemake) (.*)$", made.stdout, flags=re.MULTILINE)

    (_, plan), (_, piped), (_, summary) = commands(CORES=3, NO_COLOR="")
    run, _, told = piped.partition(" 2>&1 | ")
    assert (
        plan == "plan --cores 3" and summary == "summary" and run.split() == "figures/all reports/all --cores 3".split()
    )
    assert told == ".venv/bin/biology progress --cores 3"
    assert commands(CORES=3, NO_COLOR=1)[1][1].partition(" 2>&1")[0].split()[-1] == "--nocolor"
    monkeypatch.chdir(ROOT)
    for words in (plan, summary):
        assert main(words.split()) == 0
    assert "elegans" in capsys.readouterr().out


SAID = """Using workflow specific profile profiles/default for setting default command line arguments.
Building DAG of jobs...
Provided cores: 2
Job stats:
job            count
-----------  -------
load               1
draw               2
total              3

Select jobs to execute...
Execute 2 jobs...

[Sun Nov 29 23:05:23 2026]
Job 4: elegans: checking model and transcoders
[Sun Nov 29 23:05:23 2026]
Job 10: elegans, addition: drawing story
[Sun Nov 29 23:06:44 2026]
Finished jobid: 4 (Rule: load)
1 of 3 steps (33%) done
[Sun Nov 29 23:06:50 2026]
Error in rule draw:
    jobid: 10
    log: data/runs/elegans/draw.log (check log file(s) for error details)
Finished jobid: 11 (Rule: draw)
"""


def test_every_stage_is_one_line_with_the_time_left_and_errors_stay():
    """Half of the work took a minute on two cores, so that the other half takes another."""
    seconds = 0.0
    told = Progress({"load": 100.0, "draw": 50.0}, cores=2, clock=lambda: seconds)
    shown = []
    for text in SAID.splitlines():
        seconds += 120.0 * text.startswith("Finished jobid: 4")
        shown.append(told.line(text))
    # 100 s of 200 are done, and 90 of the other 100 are taken for begun: what is left goes at this pace
    assert [text for text in shown if text is not None] == [
        "1 of 3  elegans: checking model and transcoders: 2 min; about 1 min left",
        "Error in rule draw:",
        "    jobid: 10",
        "    log: data/runs/elegans/draw.log (check log file(s) for error details)",
        "2 of 3  draw: 0 s; about 1 min left",
    ]


def test_the_time_left_is_that_of_the_work_at_the_pace_so_far():
    told = Progress({"load": 100.0}, cores=4, clock=lambda: 0.0)
    for text in ("Job stats:", "load  4", "total  4"):
        assert told.line(text) is None
    assert told.seconds_left(0.0) == 100.0  # 400 s of work on four cores
    told.line("Finished jobid: 1 (Rule: load)")
    assert told.seconds_left(200.0) == 600.0  # 100 s of work took 200
    assert stage_seconds(ROOT)["intervene"] > stage_seconds(ROOT)["judge"] > 0


def test_a_run_that_fails_is_seen_behind_the_pipe(tmp_path):
    """`make` stops where Snakemake fails, though the last program of the pipe does not."""
    settings = re.findall(
        r"^(?:SHELL|\.SHELLFLAGS) := .*$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    (tmp_path / "Makefile").write_text(
        "\n".join([*settings, "all:", "\t@(echo said; false) | cat", ""]), encoding="utf-8"
    )
    bare = {
        name: value for name, value in os.environ.items() if not name.startswith("MAKE")
    }  # as if no make ran the tests
    done = subprocess.run(["make", "all"], cwd=tmp_path, capture_output=True, text=True, env=bare)
    assert len(settings) == 2 and done.stdout == "said\n" and done.returncode != 0
