"""A case file cannot lie: whatever it names must be there, and whatever it asks for must be measurable, before any model is opened."""

import pytest

from biology.cases.case import load_case
from biology.cases.claim_file import load_claims
from biology.records import InputError

CASE = """
paper: {section: s, url: u}
prompts:
  dallas: {text: "Fact: the capital of the state containing Dallas is", answer: Austin, factors: {city: Dallas, relation: capital, place: Texas, donor: oakland, wrong_donor: reno, line_word: a}}
  oakland: {text: "Fact: the capital of the state containing Oakland is", answer: Sacramento, factors: {city: Oakland, relation: capital, place: California, donor: dallas, wrong_donor: reno}}
  reno: {text: "Fact: the capital of the state containing Reno is", answer: Carson, factors: {city: Reno, relation: capital, place: Nevada, donor: dallas, wrong_donor: oakland}}
prompt_set: prompts.csv
operands: {first: a, second: b, only: {set: sums}}
extended: {brackets: {set: [brackets], kind: [double], kind_donor: []}}
supernodes:
  bridge: {label: "{place}", at: last, factor: place, across: [city], precision: 0.2}
  bridge_any: {label: "say {answer}", at: "factor:city", promotes: [answer], top: 5, layers: [1, 2]}
  held: {at: found, factor: place, among: [last, "factor:relation"], given: [relation, set]}
  named: {at: "token:is", active_on: [dallas], silent_on: [oakland]}
  lookup: {at: last, operands: {family: lookup, at: "-2"}}
  sum: {at: last, operands: {family: sum}}
streams:
  place: {factor: place, across: [city], only: {set: states}}
experiments:
  graph: {kind: graph, through: bridge, source: city, only: {set: states}, outcomes: [path_share]}
  inhibit: {kind: inhibit, inhibit: bridge, only: {set: states}, strengths: [0, -1], depths: [0.5, 1.0], dose: true, control_position: "token:containing", controls: [match, position], outcomes: ["activation:bridge", "level_top1:place", advantage, answer_logit], prompts: [dallas]}
  swap: {kind: swap, inhibit: bridge, inject: bridge_any, only: {set: states}, strengths: [1, 2], dose: true, controls: [match, donor], outcomes: [donor_top1, donor_probability, answer_probability]}
  ask: {kind: inject, inject: bridge, donor: kind_donor, only: {set: brackets}, strengths: [2], outcomes: [donor_top1]}
  sums: {kind: inhibit, inhibit: sum, only: {set: sums}, outcomes: [width, "kept:a+b"]}
  write: {kind: swap, inhibit: bridge, inject: bridge, only: {set: states}, strengths: [1], sites: ["1"], line: {ends: place, family: relation, forced: {0: city}}, outcomes: [line_ends_donor]}
  exchange: {kind: exchange, only: {set: states}, line: {ends: place, family: relation}, controls: [position], outcomes: [line_ends_own]}
  census: {kind: census, through: bridge, only: {set: states}, sites: ["1"], controls: [position, shuffle], outcomes: [planned, candidates]}
  classes: {kind: classes, only: {set: sums}, controls: [shuffle], outcomes: [class_share, "share:sum"]}
  wiring: {kind: wiring, of: [lookup, sum], only: {set: sums}, controls: [shuffle], outcomes: [auc_virtual]}
  connectivity: {kind: connectivity, only: {set: sums}, controls: [shuffle], outcomes: ["input:lookup>sum"]}
  reuse: {kind: reuse, of: [lookup], only: {set: sums}, controls: [donor], outcomes: [shared_activity]}
  sharing: {kind: sharing, of: [bridge], only: {set: words}, controls: [match, shuffle], outcomes: [shared, "default_written:en", "overlap:1"]}
  less: {kind: contrast, of: [inhibit, inhibit_again], outcomes: ["difference:advantage"]}
  inhibit_again: {kind: inhibit, inhibit: bridge_any, only: {set: states}, strengths: [0], outcomes: [advantage]}
  edit: {kind: edit, edit: bridge, only: {set: states}, strengths: [0, -1], outcomes: [answer_lost]}
  cost: {kind: edit, edit: bridge, as_in: edit, only: {place: Nevada}, outcomes: [answer_lost]}
  away: {kind: inhibit, inhibit: held, only: {set: states}, control_position: "token:state", controls: [position], outcomes: [answer_top1]}
  crossing: {kind: crossover, of: [swap], by: place, outcomes: [crossover_cv2]}
  told: {kind: separation, of: [graph], only: {place: Texas}, against: {place: Nevada}, outcomes: [auc_prompts]}
  signs: {kind: signs, of: [inhibit], only: {set: states}, controls: [shuffle], outcomes: [agreement]}
  sizes: {kind: scale, of: [sharing], outcomes: ["overlap:1"]}
figures: [supernode_graph-dallas, dose_response-swap, fidelity, mine, mine-reno]
"""
CLAIMS = """
toy-1:
  title: t
  paper_says: p
  source: {section: s, confidence: "digest (checked), memory"}
  gate: correct_with_donor
  parts:
    - {name: says it, experiment: swap, outcome: donor_top1, control: match, direction: increase, minimum: 0.5, specificity: {arms: [donor], ratio: 3}, ceiling: {match: 0.05}}
    - {name: less, experiment: less, outcome: "difference:advantage", control: match, direction: increase, minimum: 0.5}
    - {name: clean, experiment: exchange, outcome: line_ends_own, control: clean, direction: decrease, minimum: 0.3}
    - {name: planned, experiment: census, outcome: planned, control: position, direction: increase, minimum: 0.3}
    - {name: advantage, experiment: inhibit, outcome: advantage, control: shuffle, direction: increase, minimum: 0.1}
  registered: 2026-01-31
"""
COLUMNS = "item,text,answer,cluster,split,role,set,city,relation,place,donor,wrong_donor,a,b,plain,wrong_plain,concept,language,scale,language_fold"
ROWS = [
    ("t", "capital of the state containing Waco is", "Austin", "states", "Waco", "capital", "Texas", "dallas", "reno"),
    ("u", "capital of the state containing Ely is", "Carson", "states", "Ely", "capital", "Nevada", "t", "oakland"),
    ("s", "3+4 is", "7", "sums", "", "", "", "", "", "3", "4", "t", "u"),
    ("w", "small is", "big", "words", "", "", "", "", "", "", "", "", "", "size", "en", "size", "0"),
]


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "experiments/toy"
    folder.mkdir(parents=True)
    (folder / "case.yaml").write_text(CASE)
    (folder / "claims.yaml").write_text(CLAIMS)
    (folder / "case.py").write_text("raise RuntimeError('read, not run')\nFIGURES = {'mine': print}\n")
    width = COLUMNS.count(",") - 5
    split = {"u": "dev"}
    lines = [
        [*row[:3], "c", split.get(row[0], "heldout"), "score", *row[3:], *[""] * (width - len(row[3:]))] for row in ROWS
    ]
    (folder / "prompts.csv").write_text(COLUMNS + "\n" + "\n".join(",".join(line) for line in lines) + "\n")
    return tmp_path


def mistaken(root, name: str, old: str, new: str) -> str:
    """The message for a file in which one word was changed."""
    path = root / "experiments/toy" / name
    text = path.read_text()
    assert old in text, f"{name} does not say {old}"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        load_claims(root, "toy")
    message = str(error.value)
    assert "\n" not in message and message.startswith(str(path.parent))
    return message.removeprefix(f"{path.parent}/")


def test_the_case_without_a_mistake_is_read(root):
    case = load_case(root, "toy")
    assert len(load_claims(root, "toy")[0].parts) == 5
    assert case.arms("swap", "donor_top1") == ("match", "donor")
    assert case.arms("inhibit", "advantage") == ("match", "position", "shuffle")
    assert case.arms("less", "difference:advantage") == ("match", "shuffle")  # what both experiments have
    assert case.arms("census", "candidates") == ("shuffle",) and case.arms("exchange", "line_ends_own") == (
        "position",
        "clean",
    )
    assert case.arms("sharing", "shared") == ("match",) and case.arms("sizes", "overlap:1") == ("smaller",)
    assert case.arms("crossing", "crossover_cv2") == () and case.arms("told", "auc_prompts") == ("shuffle",)


MISTAKES = [
    # the eleven that were accepted once
    ("activation:bridge", "activation:brigde", "experiments.inhibit.outcomes: activation:brigde: unknown supernode 'brigde'. Did you mean 'bridge'?"),
    ("[width,", "[mood,", "experiments.sums.outcomes: unknown outcome 'mood'"),
    ("{kind: inhibit, inhibit: bridge, ", "{kind: inhibit, ", "experiments.inhibit: the key 'inhibit' is missing"),
    ("inject: bridge_any, ", "", "experiments.swap: the key 'inject' is missing"),
    ("{kind: crossover, of: [swap], ", "{kind: crossover, ", "experiments.crossing: the key 'of' is missing"),
    ('"factor:city"', '"facto:city"', "supernodes.bridge_any.at: unknown position 'facto:city'. Did you mean 'factor:city'?"),
    ('"token:is"', '"tokn:is"', "supernodes.named.at: unknown position 'tokn:is'. Did you mean 'token:is'?"),
    ("only: {set: states}, outcomes: [path", "only: {city: Wacko}, outcomes: [path", "experiments.graph.only.city: unknown level 'Wacko' of city. Did you mean 'Waco'?"),
    ("strengths: [0, -1]", "strengths: []", "experiments.inhibit.strengths: Tuple should have at least 1 item"),
    ("depths: [0.5, 1.0]", "depths: [0.5, 7.5]", "experiments.inhibit.depths.1: Input should be less than or equal to 1"),
    ("fidelity", "fidelty", "figures: unknown figure 'fidelty'. Did you mean 'fidelity'?"),
    # and more
    ("extended: {brackets", "extended: {braket", "extended: unknown corpus 'braket'. Did you mean 'brackets'?"),
    ("set: [brackets]", "set: [brackets, brackets]", "extended.brackets.set: 'brackets' is listed twice."),
    ("kind: census", "kind: censsus", "experiments.census: unknown kind 'censsus'. Did you mean 'census'?"),
    ("inject: bridge_any", "inject: brigde_any", "experiments.swap: unknown supernode 'brigde_any'. Did you mean 'bridge_any'?"),
    ("of: [inhibit, inhibit_again]", "of: [inhibit, inhibit_agian]", "experiments.less.of: unknown experiment 'inhibit_agian'. Did you mean 'inhibit_again'?"),
    ("against: {place: Nevada}", "against: {place: Texas}", "experiments.told.against: some prompts would be compared with themselves"),
    ("against: {place: Nevada}", "against: {set: sums}", "experiments.told.against: 'graph' measures no such prompts"),
    ("as_in: edit,", "as_in: edti,", "experiments.cost.as_in: unknown experiment 'edti'. Did you mean 'edit'?"),
    ("as_in: edit,", "as_in: inhibit,", "experiments.cost.as_in: 'inhibit' has no edit of 'bridge' of its own"),
    ("separation, of: [graph]", "separation, of: [less]", "experiments.told.of: 'less' is computed from others"),
    ("prompts: [dallas]", "prompts: [dalas]", "experiments.inhibit.prompts: unknown prompt 'dalas'. Did you mean 'dallas'?"),
    ("dose_response-swap", "dose_response-swop", "figures: unknown experiment 'swop'. Did you mean 'swap'?"),
    ("supernode_graph-dallas", "supernode_graph-dalas", "figures: unknown prompt 'dalas'. Did you mean 'dallas'?"),
    ("mine-reno", "mine-rno", "figures: unknown prompt or experiment 'rno'. Did you mean 'reno'?"),
    ("fidelity,", "fidelity-dallas,", "figures: figure 'fidelity' takes no subject"),
    ("fidelity,", "fidelity, fidelity,", "figures: 'fidelity' is listed twice"),
    ('"level_top1:place"', '"level_top1:plaice"', "level_top1:plaice: unknown factor 'plaice'. Did you mean 'place'?"),
    ("inhibit: bridge_any, only: {set: states}", "inhibit: bridge_any, only: {set: sums}", "experiments.less.of: these experiments score no prompt in common"),
    ('"kept:a+b"', '"kept:a+c"', "kept:a+c: unknown factor 'c'"),
    ('"default_written:en"', '"default_written:english"', "default_written:english: unknown language 'english'. Known: en"),
    ('"share:sum"', '"share:sums"', "outcome 'share:sums': unknown family 'sums'. Did you mean 'sum'?"),
    ("source: city", "source: citty", "experiments.graph.source: unknown factor 'citty'. Did you mean 'city'?"),
    ("by: place", "by: plaice", "experiments.crossing.by: unknown factor 'plaice'. Did you mean 'place'?"),
    ("by: place", "by: relation", "experiments.crossing.by: all scored prompts have the same level of 'relation'"),
    ("ends: place", "ends: plaice", "experiments.write.line.ends: unknown factor 'plaice'. Did you mean 'place'?"),
    ("forced: {0: city}", "forced: {0: ctiy}", "experiments.write.line.forced.0: unknown factor 'ctiy'. Did you mean 'city'?"),
    ("forced: {0: city}", "forced: {12: city}", "the line has no word 12"),
    ("across: [city], precision", "across: [ctiy], precision", "supernodes.bridge.across: unknown factor 'ctiy'. Did you mean 'city'?"),
    ('label: "{place}"', 'label: "{plaice}"', "supernodes.bridge.label: unknown factor 'plaice'. Did you mean 'place'?"),
    ('label: "{place}"', 'label: "{line_word}"', "supernodes.bridge.label: prompt 'oakland' has no factor 'line_word': add it to its `factors`."),
    ("active_on: [dallas]", "active_on: [dalas]", "supernodes.named: unknown prompt 'dalas'. Did you mean 'dallas'?"),
    ("layers: [1, 2]", "layers: [2, 1]", "supernodes.bridge_any: layers: [2, 1] is not a range"),
    ("across: [city], precision: 0.2", "active_on: [dallas]", "supernodes.bridge: a rule with `factor` selects by levels"),
    ("factor: place, across: [city], precision: 0.2}", "precision: 0.2}", "supernodes.bridge: `precision` has no effect without `factor`"),
    ("  lookup:", "  answer:", "supernodes.answer: 'answer' already has a meaning in the tables"),
    ('"token:containing", controls', '"token:contains", controls', "Did you mean 'token:containing'?"),
    ('"token:containing", controls', '"token:a", controls', "needs 'a' exactly once in prompt"),
    ("wrong_donor: reno, line", "wrong_donor: rno, line", "prompt 'dallas': unknown prompt 'rno' of column wrong_donor. Did you mean 'reno'?"),
    ("donor: kind_donor", "donor: kid_donor", "experiments.ask.donor: unknown donor's column 'kid_donor'. Did you mean 'kind_donor'?"),
    ("only: {set: sums}, outcomes: [width, ", "only: {set: sums}, outcomes: [donor_top1, ", "experiments.sums.donor: outcome 'donor_top1' needs a donor, but no scored prompt has one (column 'donor')"),
    ("only: {set: sums}, outcomes: [width, ", "only: {set: states}, outcomes: [width, ", "outcome 'width' is about numbers, but prompt 't' has the answer 'Austin'"),
    ("only: {set: words}", "only: {set: words, language: fr}", "experiments.sharing.only.language: unknown level 'fr' of language"),
    ("only: {set: words}", "only: {set: words, relation: capital}", "experiments.sharing.only: no scored prompt has set words and relation capital"),
    ("strengths: [0, -1]", "strengths: [0, 2]", "experiments.inhibit.strengths: 2 would amplify"),
    ("strengths: [0, -1]", "strengths: [.nan, -1]", "experiments.inhibit.strengths.0: Input should be a finite number"),
    ("strengths: [0, -1]", "strengths: [-1, -1]", "experiments.inhibit.strengths: '-1.0' is listed twice"),
    ("strengths: [0, -1]", "strengths: [0]", "experiments.inhibit.dose: a dose curve needs several strengths"),
    ("strengths: [1, 2], dose: true", "strengths: [0, 2], dose: true", "experiments.swap.strengths: 0 injects nothing"),
    ("strengths: [1, 2], dose: true", "strengths: [1, 2]", "experiments.crossing.of: 'swap' has no dose curve"),
    ("donor_probability, answer_probability]", "answer_probability, answer_top1]", "experiments.crossing.of: the last two outcomes of 'swap' must be the probabilities"),
    ("controls: [match, donor]", "controls: [match, donr]", "unknown control 'donr' of kind swap. Did you mean 'donor'?"),
    ("through: bridge, only: {set: states}, sites", "through: sum, only: {set: states}, sites", "experiments.census.through: the rule of supernode 'sum' needs `factor`"),
    ('sites: ["1"], controls: [position, shuffle]', "controls: [position, shuffle]", "experiments.census.controls: 'position' needs `sites`"),
    ("outcomes: [planned, candidates]", 'outcomes: [planned, candidates, "follows:chance"]', "experiments.census.outcomes: unknown factor 'chance_California'"),
    ("outcomes: [planned, candidates]", 'outcomes: [planned, candidates, "follows"]', "outcome 'follows' is not complete: it is written follows:<number>"),
    ('sites: ["1"], controls: [position, shuffle]', 'sites: ["1", "9"], controls: [position, shuffle]', "experiments.census.sites: position '9' is outside prompt 's' of the prompt set, which can have 8 tokens at most"),
    ('sites: ["1"], controls: [position, shuffle]', 'sites: ["-9"], controls: [position, shuffle]', "experiments.census.sites: position '-9' is outside prompt 's'"),
    ("of: [inhibit, inhibit_again]", "of: [graph, inhibit_again]", "experiments.less.of: 'graph' is of kind graph: only perturbations, exchanges and censuses can be compared"),
    ("of: [lookup, sum]", "of: [bridge, sum]", "experiments.wiring.of: the rule of supernode 'bridge' needs the condition `operands`"),
    ("operands: {first: a, second: b, only: {set: sums}}\n", "", "supernodes.lookup: a rule on operands needs `operands:` in case.yaml"),
    ("first: a", "first: c", "operands.first: unknown factor 'c'"),
    ("of: [bridge], only: {set: words}", "only: {set: words}", "experiments.sharing.of: outcome 'shared' is about supernodes"),
    ("of: [inhibit], only", "of: [swap], only", "experiments.signs.of: 'swap' is of kind swap"),
    ("of: [sharing]", "of: [inhibit]", "experiments.sizes.of: 'inhibit' must be an experiment on features with the control shuffle"),
    ('outcomes: ["difference:advantage"]', 'outcomes: ["difference:width"]', "experiments.less.outcomes: unknown outcome 'width' of inhibit"),
    ("  reno:", "  Reno:", "prompts: 'Reno' is not allowed: use small letters"),
    ("  less:", "  less/more:", "experiments: 'less/more' is not allowed: use small letters"),
    # where a supernode is found
    ("at: found,", "at: fuond,", "supernodes.held.at: unknown position 'fuond'. Did you mean 'found'?"),
    ("at: found, factor: place", "at: found", "supernodes.held: `at: found` needs `factor`, whose levels are exchanged."),
    ('among: [last, "factor:relation"], ', "", "supernodes.held: `at: found` needs `among`: one or more positions, without repetition."),
    ('among: [last, "factor:relation"]', "among: []", "supernodes.held: `at: found` needs `among`"),
    ('among: [last, "factor:relation"]', "among: [last, last]", "supernodes.held: `at: found` needs `among`"),
    ('among: [last, "factor:relation"]', 'among: [last, "factor:relaton"]', "supernodes.held.among: unknown factor 'relaton'. Did you mean 'relation'?"),
    ('among: [last, "factor:relation"]', "among: [last, found]", "supernodes.held.among.1: unknown position 'found'"),
    ('among: [last, "factor:relation"]', 'among: [last, "token:containin"]', "supernodes.held.among: position 'token:containin' needs 'containin' exactly once in prompt 's' of the prompt set"),
    (", given: [relation, set]", "", "supernodes.held: `at: found` needs `given`: columns that determine the answer together with 'place'."),
    ("given: [relation, set]", "given: [relaton]", "supernodes.held.given: unknown factor 'relaton'. Did you mean 'relation'?"),
    ("given: [relation, set]", "given: [relation, relation]", "supernodes.held.given: 'relation' is listed twice"),
    ("given: [relation, set]", "given: [place]", "supernodes.held: given: leave out 'place', whose level is exchanged."),
    ("given: [relation, set]", "given: [relation], layers: [0, 1]", "supernodes.held: `at: found` finds the layers: leave out `layers`."),
    ("at: found,", "at: last,", "supernodes.held: `among` has no effect without `at: found`."),
    ('at: found, factor: place, among: [last, "factor:relation"],', "at: last, factor: place,", "supernodes.held: `given` has no effect without `at: found`."),
    ('control_position: "token:state"', 'control_position: "factor:relation"', "experiments.away.control_position: supernode 'held' may be found at 'factor:relation' (`among`): choose a control position outside `among`."),
    ('control_position: "token:state"', "control_position: found", "experiments.away.control_position: unknown position 'found'"),
    ("through: bridge, only: {set: states}, sites: [\"1\"]", "through: held, only: {set: states}, sites: [last]", "experiments.census.sites: supernode 'held' may be found at 'last'"),
    # what contradicts itself, or has no effect
    ("second: b", "second: a", "operands.second: 'a' is the first operand too: name the other one."),
    ("active_on: [dallas], silent_on", "active_on: [dallas, dallas], silent_on", "supernodes.named.active_on: 'dallas' is listed twice."),
    ("silent_on: [oakland]", "silent_on: [dallas]", "supernodes.named.silent_on: 'dallas' is listed in `active_on` too: no feature can be a member."),
    ("promotes: [answer], top", "promotes: [answer], not_promotes: [answer], top", "supernodes.bridge_any.not_promotes: 'answer' is listed in `promotes` too"),
    ("promotes: [answer], top", 'promotes: [""], top', "supernodes.bridge_any.promotes: an entry is empty."),
    ("across: [city], precision", "across: [city, city], precision", "supernodes.bridge.across: 'city' is listed twice."),
    ("across: [city], precision", "across: [place], precision", "supernodes.bridge.across: leave out 'place': prompts that share its level cannot differ in it."),
    ("place: {factor: place, across: [city]", "place: {factor: place, across: [place]", "streams.place.across: leave out 'place'"),
    ('"kept:a+b"', '"kept:a+a"', "experiments.sums.outcomes: outcome 'kept:a+a' names the same factor twice."),
    ('shared, "default_written:en", "overlap:1"', 'shared, "default_written:en", "overlap:1", "overlap:one"', "experiments.sharing.outcomes: outcome 'overlap:one': a layer is a whole number, counted from 0."),
    ("strengths: [0], outcomes: [advantage]", "strengths: [0], protocol: iterative, depths: [0.5], outcomes: [advantage]", "experiments.inhibit_again.depths: iterative patching holds nothing up to a layer: leave out `depths`."),
    ("strengths: [0], outcomes: [advantage]", 'strengths: [0], control_position: "2", outcomes: [advantage]', "experiments.inhibit_again: `control_position` has no effect without the control 'position'."),
    ("strengths: [0], outcomes: [advantage]", "strengths: [0], direction: decrease, outcomes: [advantage]", "experiments.inhibit_again: `direction` has no effect: there is one strength and one depth, and nothing to choose."),
    ('control_position: "token:containing"', "control_position: last", "experiments.inhibit.control_position: supernode 'bridge' is at 'last' itself: choose another control position."),
    ('control_position: "token:containing"', 'control_position: "-1"', "experiments.inhibit.control_position: supernode 'bridge' is at '-1' itself"),
    ('sites: ["1"], controls: [position, shuffle]', "sites: [last], controls: [position, shuffle]", "experiments.census.sites: supernode 'bridge' is at 'last' itself"),
    ("controls: [position], outcomes: [line", "controls: [position], control_position: last, outcomes: [line", "experiments.exchange.control_position: 'last' is what is exchanged: choose another control position."),
    ("answer: Carson", 'answer: " "', "prompts.reno.answer: is blank."),
    ("factors: {city: Dallas", "factors: {ctiy: Dallas", "prompt 'dallas': unknown factor 'ctiy'. Did you mean 'city'?"),
    ("by: place", "by: item", "experiments.crossing.by: unknown factor 'item'."),
    ('label: "{place}"', 'label: "{place!q}"', "supernodes.bridge.label: '{place!q}' cannot be filled in ("),
    ('label: "{place}"', 'label: "{place:d}"', "supernodes.bridge.label: '{place:d}' cannot be filled in ("),
    ("dose_response-swap", "dose_response-ask", "figures: figure 'dose_response' needs an experiment with `dose: true`: 'ask' is none."),
    ("dose_response-swap", "swap_panel-graph", "figures: figure 'swap_panel' needs an experiment with the control donor: 'graph' is none."),
    ("dose_response-swap", "path_share-swap", "figures: figure 'path_share' needs an experiment of kind graph: 'swap' is none."),
    # a value of another type
    ("donor: kind_donor", "donor: 4", "experiments.ask.donor: a name or text is expected here, not the number 4."),
    ("inject: bridge_any, ", "inject: 83, ", "experiments.swap.inject: a name or text is expected here, not the number 83."),
    ("inject: bridge_any, ", "inject: bridge_any, inhibit_share: 83, ", "experiments.swap.inhibit_share: Input should be less than or equal to 1."),
    ("inject: bridge_any, ", "inject: bridge_any, inhibit_share: bridge, ", "experiments.swap.inhibit_share: a number is expected here, not the text 'bridge'."),
    ("city: Dallas", "city: 4", "prompts.dallas.factors.city: a name or text is expected here, not the number 4."),
    ("across: [city], precision", "across: city, precision", "supernodes.bridge.across: a list is expected here, not the text 'city'."),
    ("of: [sharing]", "of: [4]", "experiments.sizes.of.0: a name or text is expected here, not the number 4."),
    ("by: place", "by: 4", "experiments.crossing.by: a name or text is expected here, not the number 4."),
    ("inhibit: sum", "inhibit: null", "experiments.sums.inhibit: a name or text is expected here, not nothing."),
    ("dose: true, control_position", "dose: 0.5, control_position", "experiments.inhibit.dose: true or false is expected here, not the number 0.5."),
    ("prompt_set: prompts.csv", "prompt_set: prompts.csv\nprompt_sets: {natural: prompts_naturl.csv}", "prompt_sets: there is no file"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "expected"), MISTAKES, ids=[f"{old[:16]}-{new[:24]}" for old, new, _ in MISTAKES]
)
def test_a_mistake_in_case_yaml_is_one_line_with_the_nearest_right_word(root, old, new, expected):
    message = mistaken(root, "case.yaml", old, new)
    assert message.startswith("case.yaml: ") and expected in message


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("experiment: swap,", "experiment: swop,", "toy-1.parts.says it: unknown experiment 'swop'. Did you mean 'swap'?"),
        ("outcome: donor_top1", "outcome: donor_topl", "unknown outcome 'donor_topl' of swap. Did you mean 'donor_top1'?"),
        ("donor_top1, control: match", "donor_top1, control: mtach", "toy-1.parts.says it.control: unknown control 'mtach'. Did you mean 'match'?"),
        ("donor_top1, control: match", "donor_top1, control: random", "unknown control 'random' of donor_top1 in swap. Known: match, donor, none"),
        ('difference:advantage", control: match', 'difference:advantage", control: position', "unknown control 'position' of difference:advantage in less"),
        ("arms: [donor]", "arms: [position]", "toy-1.parts.says it.specificity: unknown control 'position' of donor_top1 in swap"),
        ("ceiling: {match", "ceiling: {position", "toy-1.parts.says it.ceiling: unknown control"),
        ("gate: correct_with_donor", "gate: correct_with_donr", "toy-1.gate: unknown gate 'correct_with_donr'. Did you mean 'correct_with_donor'?"),
        ("minimum: 0.5, spec", "minimum: 50, spec", "toy-1.parts.says it.minimum: 50 cannot be reached: donor_top1 is a 0 or 1"),
        ("ceiling: {match: 0.05}", "ceiling: {match: -0.05}", "toy-1.parts.says it.ceiling.match: -0.05 cannot be reached: donor_top1 is a 0 or 1"),
        ("direction: increase, minimum: 0.5, spec", "direction: equivalent, minimum: 0.5, spec", "toy-1.parts.says it.specificity: the part asks that nothing changes: leave it out."),
        ('name: clean, experiment: exchange, outcome: line_ends_own, control: clean, direction: decrease',
         'name: clean, experiment: less, outcome: "difference:advantage", control: match, direction: increase',
         "toy-1.parts.clean: it asks what part 'less' asks."),
        ("title: t", 'title: ""', "toy-1.title: is empty."),
        ("paper_says: p", 'paper_says: " "', "toy-1.paper_says: is empty."),
        ("name: less", 'name: ""', "toy-1.parts.1.name: is empty."),
        ("minimum: 0.5, spec", "minimum: .inf, spec", "toy-1.parts.says it.minimum: Input should be a finite number"),
        ("name: less", "name: says it", "toy-1.parts.says it: two parts have this name"),
        ("confidence: \"digest (checked)", "confidence: \"digset (checked)", "unknown confidence 'digset'. Did you mean 'digest'?"),
        ("experiment: swap,", "experiment: 83,", "toy-1.parts.says it.experiment: a name or text is expected here, not the number 83."),
        ("donor_top1, control", "[donor_top1], control", "toy-1.parts.says it.outcome: a name or text is expected here, not a list."),
        ("minimum: 0.5, spec", "minimum: half, spec", "toy-1.parts.says it.minimum: a number is expected here, not the text 'half'."),
        ("minimum: 0.5, spec", "minimum: [0.5], spec", "toy-1.parts.says it.minimum: a number is expected here, not a list."),
        ("arms: [donor]", "arms: donor", "toy-1.parts.says it.specificity.arms: a list is expected here, not the text 'donor'."),
        ("specificity: {arms: [donor], ratio: 3}", "specificity: 3", "toy-1.parts.says it.specificity: a mapping is expected here, not the number 3."),
        ("ceiling: {match: 0.05}", "ceiling: 0.05", "toy-1.parts.says it.ceiling: a mapping is expected here, not the number 0.05."),
        ("{match: 0.05}", "{match: low}", "toy-1.parts.says it.ceiling.match: a number is expected here, not the text 'low'."),
        ("name: less,", "name: 7,", "toy-1.parts.1.name: a name or text is expected here, not the number 7."),
        ("registered: 2026-01-31", "registered: soon", "toy-1.registered: a date (2026-01-31) is expected here, not the text 'soon'."),
        ("  gate: correct_with_donor", "  gate: true", "toy-1.gate: a name or text is expected here, not the truth value true."),
        ("direction: decrease", "direction: decreas", "toy-1.parts.clean.direction: unknown value 'decreas'. Did you mean 'decrease'?"),
    ],
    ids=lambda text: text[:24],
)  # fmt: skip
def test_a_mistake_in_claims_yaml_is_one_line_with_the_nearest_right_word(root, old, new, expected):
    message = mistaken(root, "claims.yaml", old, new)
    assert message.startswith("claims.yaml: ") and expected in message


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("Nevada,t,", "Nevada,tt,", "prompt 'u' of the prompt set: unknown prompt 'tt' of column donor. Did you mean 't'?"),
        ("Nevada,t,", "Nevada,,", "prompt 'u' of the prompt set has no donor (column 'donor')"),
        ("Nevada,t,oakland", "Nevada,t,", "prompt 'u' of the prompt set has no donor (column 'wrong_donor')"),
        ("Ely,capital,Nevada", "Ely,capital,", "prompt 'u' of the prompt set has no level of 'place'"),
        ("states,Ely", "states,Elko", "position 'factor:city' needs 'Elko' exactly once in prompt 'u' of the prompt set"),
        (",Carson,", ", ,", "row 3.answer: is blank."),
        (",Carson,", ",Carson ,", "row 3.answer: 'Carson ' ends in a space, which no answer does."),
        ("Ely is", "Ely was", "supernodes.named.at: position 'token:is' needs 'is' exactly once in prompt 'u' of the prompt set, where it stands 0 times"),
        ("c,dev", "c,heldout", "strength and depth are chosen on development prompts, and none of those that it scores is one"),
        ("3,4,t,u", "3,4,,u", "experiments.reuse: prompt 's' of the prompt set has no level of 'plain'"),
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_a_mistake_in_prompts_csv_is_one_line(root, old, new, expected):
    assert expected in mistaken(root, "prompts.csv", old, new)


def test_without_a_prompt_that_is_held_out_nothing_could_be_judged(root):
    path = root / "experiments/toy/prompts.csv"
    path.write_text(path.read_text().replace(",heldout,", ",dev,"))
    with pytest.raises(InputError, match="prompt_set: no scored prompt is held out"):
        load_case(root, "toy")


def test_activity_is_compared_without_operand_plots(root):
    """The kind `reuse` follows any supernode; only what looks at plots needs `operands`."""
    plotted = ("operands:", "lookup:", "sum:", "sums:", "classes:", "wiring:", "connectivity:")
    lines = [line for line in CASE.splitlines() if not line.strip().startswith(plotted)]
    text = "\n".join(lines).replace("of: [lookup], only: {set: sums}", "of: [bridge], only: {set: sums}")
    (root / "experiments/toy/case.yaml").write_text(text)
    assert load_case(root, "toy").operands is None
    (root / "experiments/toy/case.yaml").write_text(text.replace("kind: reuse, of: [bridge]", "kind: classes"))
    with pytest.raises(InputError):
        load_case(root, "toy")


def test_what_only_another_prompt_set_has_is_no_mistake(root):
    folder = root / "experiments/toy"
    (folder / "case.yaml").write_text(
        CASE.replace("prompt_set: prompts.csv", "prompt_set: prompts.csv\nprompt_sets: {other: other.csv}")
    )
    text = (folder / "prompts.csv").read_text()
    (folder / "other.csv").write_text("\n".join(line for line in text.splitlines() if not line.startswith("s,")) + "\n")
    assert len(load_case(root, "toy", "other").items) == 3  # without sums, of which experiments ask


def test_case_py_has_to_name_its_figures(root):
    (root / "experiments/toy/case.py").write_text("figures = {}\n")
    with pytest.raises(InputError, match=r"case\.py: names no figures"):
        load_case(root, "toy")
