"""Slips of a hand that edits the case files of the project are refused at load: in one line, with file and key, and no model opened."""

import shutil
from pathlib import Path

import pytest

from biology.cases.case import load_case
from biology.cases.claim_file import load_claims
from biology.records import InputError

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
CASE, CLAIMS, PROMPTS = "case.yaml", "claims.yaml", "prompts.csv"
FLOWER = "flower-anniston,Fact: the flower of the state containing Anniston is,camellia,Alabama,heldout,score,states,Anniston,flower,Alabama,state,0,0,flower-las-cruces,flower-new-rochelle\n"
LABEL, ANYWHERE = 'label: "{place}"', 'control_position: "token:containing"'
FALLS = "outcome: answer_probability, control: match, direction: decrease, minimum: 0.3"
SLIPS = [
    (CLAIMS, "inhibit_bridge, outcome: others_probability", "inhibit_city, outcome: others_probability", "unknown outcome 'others_probability' of inhibit_city"),
    (CLAIMS, FALLS, FALLS.replace("0.3", ".nan"), "minimum: Input should be a finite number"),
    (CLAIMS, FALLS, FALLS.replace("0.3", "30"), "minimum: 30 cannot be reached: answer_probability is a probability"),
    (CLAIMS, FALLS, FALLS.replace("match", "donor"), "unknown control 'donor' of answer_probability in inhibit_relation"),
    (CLAIMS, FALLS, FALLS + ", ceiling: {donor: 0.1}", "ceiling: unknown control 'donor'"),
    (CLAIMS, "arms: [donor, position, direction]", "arms: [donor, position, position]", "specificity: 'position' is listed twice"),
    (CLAIMS, "multihop-2:", "multihop-1:", "key 'multihop-1' is given twice"),
    (CLAIMS, "  registered: 2026-11-20", "  gate: correct_with_doner\n  registered: 2026-11-20", "Did you mean 'correct_with_donor'?"),
    (CASE, "    kind: graph", "\tkind: graph", r"character '\t' that cannot start any token"),
    (CASE, "  swap_foreign:", "  swap:", "key 'swap' is given twice"),
    (CASE, "    inhibit: relation\n", "    inhibit: relation\n    inhibit_share: 0.5\n", "experiments.inhibit_relation: unknown key 'inhibit_share'"),
    (CASE, "depths: [0.1, 0.2, 0.4, 0.6, 0.8, 1.0]", "depths: [60, 80, 100]", "inhibit_relation.depths.0: Input should be less than or equal to 1"),
    (CASE, "only: {set: foreign}", "only: {set: foriegn}", "only.set: unknown level 'foriegn' of set. Did you mean 'foreign'?"),
    (CASE, ANYWHERE, 'control_position: "token:the"', "exactly once in prompt 'flower-anniston' of the prompt set, where it stands 2 times"),
    (CASE, "promotes: [answer], top", "promotes: [anwser], top", "supernodes.say_answer.promotes: unknown word 'anwser'. Did you mean 'answer'?"),
    (CASE, "given: [relation]", "given: [relaton]", "supernodes.bridge.given: unknown factor 'relaton'. Did you mean 'relation'?"),
    (CASE, LABEL, 'label: "{place"', "supernodes.bridge.label: '{place' has an unmatched brace"),
    (CASE, "swap_panel-swap, swap_panel-swap_foreign", "swap_pannel-swap, swap_panel-swap_foreign", "figures: unknown figure 'swap_pannel'. Did you mean 'swap_panel'?"),
    (CASE, "donor: savannah, wrong_donor: dallas", "donor: oakland, wrong_donor: dallas", "prompt 'oakland': it is its own donor (column 'donor')"),
    (PROMPTS, FLOWER, FLOWER.replace("heldout", "held-out"), "row 3.split: unknown value 'held-out'. Did you mean 'heldout'?"),
    (PROMPTS, FLOWER, FLOWER + FLOWER.replace("flower-anniston", "flower-again"), "row 4: item 'flower-again' repeats item 'flower-anniston'"),
    (PROMPTS, FLOWER, FLOWER.replace("score,states", "score,state"), "no experiment measures it: unknown level 'state' of set. Did you mean 'states'?"),
    (PROMPTS, FLOWER, FLOWER.replace("score,states", "score,states "), "row 3.set: 'states ' begins or ends with a space"),
    (PROMPTS, FLOWER, FLOWER.replace("flower-las-cruces", "flower-new-rochelle"), "'flower-new-rochelle' is both its donor and its wrong donor (column 'wrong_donor')"),
    (PROMPTS, FLOWER, FLOWER.replace("flower-las-cruces", "flower-las-crucs"), "prompt 'flower-anniston' of the prompt set: unknown prompt 'flower-las-crucs'"),
    (PROMPTS, FLOWER, FLOWER + FLOWER.replace("flower-anniston", "flower-again").replace("Anniston is", "Anniston is "), "repeats item"),  # the same tokens
    (PROMPTS, FLOWER, FLOWER + FLOWER.replace("flower-anniston", "flower-again").replace("camellia", "rose"), "the same text has the answer 'camellia' before"),
    (CLAIMS, "previous: ", "previous: x", "give the hash that claims.lock had before the change"),
    (CASE, "promotes: [answer], top", "promotes: [Sacramneto], top", "unknown word 'Sacramneto'. Did you mean 'Sacramento'?"),
    (CASE, "precision: 0, recall: 0.9, false_positive_rate: 0.2", "precision: 0, recall: 0", "of 0 tell no level: every feature would be a member"),
    (PROMPTS, "item,text,answer,cluster,split,role", "item;text;answer;cluster;split;role", "separated by commas, not by semicolons"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "told"), SLIPS, ids=range(len(SLIPS)))
def test_a_slip_in_a_case_of_the_project_is_refused_in_one_line(tmp_path, name, old, new, told):
    folder = tmp_path / "experiments" / "multi_hop"
    shutil.copytree(EXPERIMENTS / "multi_hop", folder)
    text = (folder / name).read_text("utf-8")
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(InputError) as refused:
        load_case(tmp_path, "multi_hop")
        load_claims(tmp_path, "multi_hop")
    line = str(refused.value)
    assert told in line and "\n" not in line
    assert "token:the'?" not in line  # a word that stands there twice is no better a second time
    assert line.startswith(str(folder))


def test_a_prompt_set_without_a_prompt_is_refused(tmp_path):
    folder = tmp_path / "experiments" / "multi_hop"
    shutil.copytree(EXPERIMENTS / "multi_hop", folder)
    (folder / PROMPTS).write_text((folder / PROMPTS).read_text("utf-8").splitlines()[0] + "\n", "utf-8")
    with pytest.raises(InputError, match=r"prompts\.csv: no prompts below the header"):
        load_case(tmp_path, "multi_hop")
