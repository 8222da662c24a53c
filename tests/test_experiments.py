"""Kinds of experiment: each demands what it needs, knows nothing else, and asks for outcomes that something computes."""

import pytest
from pydantic import ValidationError
from toy_case import experiment_of

from biology.arms import CONTROLS, Control, controls_of
from biology.cases.experiments import KINDS
from biology.cases.measures import FORMS, Outcome, forms_of, unchanged
from biology.cases.positions import Position
from biology.evidence import number_outcomes, outcomes
from biology.schemas import ARMS

LINE = {"ends": "word", "family": "family"}
LEAST = {
    "inhibit": {"inhibit": "a"},
    "inject": {"inject": "a"},
    "swap": {"inhibit": "a", "inject": "b"},
    "edit": {"edit": "a"},
    "exchange": {"line": LINE},
    "graph": {"through": "a", "source": "city"},
    "faithfulness": {},
    "structure": {"template": "set"},
    "census": {"through": "a"},
    "attention": {"key": "factor:city"},
    "signs": {"of": ["x"]},
    "classes": {},
    "wiring": {"of": ["a", "b"]},
    "connectivity": {},
    "reuse": {"of": ["a"]},
    "sharing": {},
    "contrast": {"of": ["x", "y"]},
    "crossover": {"of": ["x"], "by": "language"},
    "separation": {"of": ["x"], "against": {"set": "other"}},
    "scale": {"of": ["x"]},
}
"""The least that each kind needs."""


def fields(kind: str) -> dict:
    form = FORMS[forms_of(kind)[0]] if kind != "exchange" else FORMS["line_ends_own"]
    about = {"outcome": "width", "family": "sum"}.get(form.about, "a")
    argument = ":" + form.separator.join([about] * form.count[0]) if form.about else ""
    return {"kind": kind, "outcomes": [form.name + argument]} | LEAST[kind]


@pytest.mark.parametrize("kind", [kind.kind_name() for kind in KINDS])
def test_a_kind_demands_what_it_needs_and_knows_nothing_else(kind):
    made = experiment_of(**fields(kind))
    assert made.kind == kind and type(made).kind_name() == kind
    for key in LEAST[kind]:
        with pytest.raises(ValidationError, match=key):
            experiment_of(**{name: value for name, value in fields(kind).items() if name != key})
    for other in {"inhibit", "through", "by", "of", "at"} - set(type(made).model_fields):
        with pytest.raises(ValidationError, match=f"unknown key '{other}'"):
            experiment_of(**fields(kind), **{other: "a"})
    with pytest.raises(ValidationError, match=rf"unknown outcome 'mood' of kind {kind}"):
        experiment_of(**fields(kind) | {"outcomes": ["mood"]})


def test_what_is_said_of_an_experiment_says_no_less_than_its_fields():
    swap = experiment_of(**fields("swap"), inhibit_share=0.5)
    assert swap.held == ("a", "b") and swap.holds(2.0) == {"a": -1.0} and swap.injected == "b"
    inhibit = experiment_of(**fields("inhibit") | {"outcomes": ["answer_top1", "activation:c", "level_top1:d"]})
    assert inhibit.holds(-2.0) == {"a": -2.0} and inhibit.injected is None
    assert inhibit.names() == {"a", "c"} and inhibit.names(["answer_top1"]) == {"a"}
    assert experiment_of(**fields("contrast")).rests_on == ("x", "y")
    assert experiment_of(**fields("sharing")).rests_on == ()


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("swap", {"line": LINE}, "unknown outcome 'answer_probability' of a line"),
        ("swap", {"outcomes": ["line_ends_own"]}, "say how it is written"),
        ("swap", {"sites": ["1"]}, "`sites` needs `line`"),
        ("swap", {"line": LINE, "outcomes": ["line_ends_own"], "protocol": "iterative"}, "leave out `protocol`"),
        ("swap", {"line": LINE, "outcomes": ["line_ends_own"], "controls": ["direction"]}, "no control 'direction'"),
        ("inhibit", {"controls": ["donor"]}, "unknown control 'donor' of kind inhibit. Known: match, position, direction"),
        ("inhibit", {"outcomes": ["activaton:a"]}, "Did you mean 'activation:a'?"),
        ("inhibit", {"outcomes": ["overlap:2"]}, "unknown outcome 'overlap:2' of kind inhibit"),
        ("edit", {"line": LINE}, "unknown key 'line'"),
        ("edit", {"controls": ["position"]}, "unknown control 'position' of kind edit. Known: match"),
        ("edit", {"as_in": "x", "strengths": [0]}, "leave out `strengths`"),
        ("inhibit", {"control_position": "tokn:is"}, "Did you mean 'token:is'?"),
        ("connectivity", {"outcomes": ["input:lookup>verb"]}, "unknown family 'verb'. Known: add, lookup, sum"),
        ("classes", {"outcomes": ["share:lookups"]}, "unknown family 'lookups'. Did you mean 'lookup'?"),
        ("contrast", {"outcomes": ["interaction:width"]}, "it is written interaction:<outcome>,<outcome>"),
        ("contrast", {"outcomes": ["difference:mood"]}, "unknown outcome 'mood'"),
        ("contrast", {"of": ["x"]}, "at least 2 items"),
        ("attention", {"outcomes": ["scaled_answer"]}, "name them in `of`"),
        ("attention", {"of": ["a"], "outcomes": ["interactions"]}, "name them in `by`"),
        ("attention", {"strength": 1}, "less than 1"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(kind, more, message):
    with pytest.raises(ValidationError) as error:
        experiment_of(**fields(kind) | more)
    assert message in str(error.value)


def test_a_kind_that_there_is_not_is_named():
    with pytest.raises(ValidationError, match=r"unknown kind 'inhibt'. Did you mean 'inhibit'\?"):
        experiment_of(kind="inhibt", inhibit="a", outcomes=["answer_top1"])


# Words -----------------------------------------------------------------------------------------------------------------


def test_every_outcome_of_a_perturbation_is_read_by_something():
    about = [f"{one}:" for one in ("level_top1", "level_probability", "kept", "activation", "lost")]
    read = {*outcomes.SIMPLE, *number_outcomes.OUTCOMES, "advantage", *(one.rstrip(":") for one in about)}
    assert read == {name for name in forms_of("inhibit") if not FORMS[name].line}
    assert {*outcomes.LEVELS, outcomes.KEPT, "activation:", "lost:"} == set(about)


def test_an_outcome_is_text_that_knows_what_it_is_about():
    nested = Outcome("difference:level_top1:expected")
    assert nested == "difference:level_top1:expected" and nested.names("factor") == ["expected"]
    assert nested.meaning.startswith("whether the prompt's own expected is the most probable token in the first")
    assert Outcome("kept:concept+language").names("factor") == ["concept", "language"]
    assert Outcome("interaction:activation:a,lost:b").names("supernode") == ["a", "b"]
    assert [unchanged(one) for one in ("activation:a", "lost:a", "answer_top1", "none")] == [1.0, 0.0, None, None]


def test_every_form_is_asked_by_some_kind_and_every_arm_is_known():
    kinds = {kind.kind_name() for kind in KINDS}
    for form in FORMS.values():
        assert form.kinds and set(form.kinds) <= kinds
        assert {*form.beside, *(form.controls or ())} <= set(CONTROLS)
    assert ARMS == ("effect", *CONTROLS)
    assert all(set(arm.kinds) <= kinds for arm in CONTROLS.values())
    assert {control for kind in kinds for control in controls_of(kind)} == set(CONTROLS) - {"clean", "smaller"}
    bringing = {form.name for form in FORMS.values() if "shuffle" in form.beside}
    assert set(CONTROLS["shuffle"].where) == {*CONTROLS["shuffle"].kinds, *bringing}  # it has one meaning in each place


@pytest.mark.parametrize("text", ["last", "-2", "0", "token:Dallas", "token:,\n", "factor:city"])
def test_positions_that_can_be_said(text):
    assert Position(text) == text and "\n" not in Position(text).meaning


@pytest.mark.parametrize("text", ["lst", "", "1.5", "facto:city", "token:", "tokn:x"])
def test_positions_that_cannot(text):
    with pytest.raises(ValueError, match="unknown position"):
        Position(text)


def test_a_control_is_one_of_those_that_there_are():
    assert Control("match").arm.words == "matched random features"
    with pytest.raises(ValueError, match=r"unknown control 'mtach'. Did you mean 'match'\?"):
        Control("mtach")
