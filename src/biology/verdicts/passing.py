"""Which prompts of a case a model can be asked: those that it answers, donors included; and its answers to the others."""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

from __future__ import annotations

import pandas as pd

from biology.tables import donor_columns

SAID = 3  # number of wrong answers that are listed
COLUMNS = ("case", "set", "split", "prompts", "answered", "with_donors", "templates", "said_instead")


def passing(case: str, prompts: pd.DataFrame) -> pd.DataFrame:
    """One row for each set and split of the scored prompts of table `prompts` (columns `COLUMNS`).

    `with_donors` counts the prompts that are answered together with all prompts they are compared with. `templates` counts
    the wordings of these; 0 if prompts have no wording. `said_instead` lists the most frequent first tokens of wrong
    answers with their counts.
    """
    scored = prompts[prompts["role"] == "score"]
    scored = scored.assign(set=scored["set"] if "set" in scored else "", template=scored.get("template", ""))
    rows = []
    for (name, split), group in scored.groupby(["set", "split"], sort=True):
        gates = [f"correct_with_{column}" for column in donor_columns(group) if (group[column] != "").any()]
        able = group["correct"] & group[gates].all(axis=1)
        wrong = group.loc[~group["correct"], "top1"].value_counts(sort=False).sort_index()
        wrong = wrong.sort_values(ascending=False, kind="stable").head(SAID)
        values = {
            "case": case,
            "set": name,
            "split": split,
            "prompts": len(group),
            "answered": int(group["correct"].sum()),
            "with_donors": int(able.sum()),
            "templates": int(group.loc[able & (group["template"] != ""), "template"].nunique()),
            "said_instead": ", ".join(f"{token!r} {count}" for token, count in wrong.items()),
        }
        rows.append(values)
    return pd.DataFrame(rows, columns=list(COLUMNS))
