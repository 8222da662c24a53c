"""config.yaml is strict: whatever nobody would read is an error with one clear line."""

from pathlib import Path

import pytest

from biology.cases.case import discover_cases
from biology.config import load_config
from biology.grammar import refused_name
from biology.records import InputError, read_yaml

ROOT = Path(__file__).parents[1]
SMALLEST = "models: {a: {path: x, transcoders: y}}\n"


def complaint(tmp_path, text):
    """The one line said about a config.yaml with this text."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_config(path)
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    return message.removeprefix(str(path))


def test_the_shipped_configuration_loads():
    config = load_config(ROOT / "config.yaml")
    assert "elegans" in config.models
    assert config.threads >= 1


def test_defaults_are_those_of_the_contract(tmp_path):
    (tmp_path / "config.yaml").write_text(SMALLEST)
    config = load_config(tmp_path / "config.yaml")
    assert config.cases == "all"
    assert config.attribution.max_feature_nodes is None
    assert (config.attribution.max_logits, config.attribution.logit_probability) == (10, 0.95)
    assert (config.attribution.node_threshold, config.attribution.edge_threshold) == (0.8, 0.98)
    assert (config.statistics.control_draws, config.statistics.permutations) == (10, 100_000)
    assert config.threads == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SMALLEST + "thread: 2", "unknown key 'thread'. Did you mean 'threads'? Known: models, cases,"),
        ("models: {a: {pth: x, transcoders: y}}", "models.a: unknown key 'pth'. Did you mean 'path'?"),
        ("models: {a: {path: x}}", "models.a: 'transcoders' is missing"),
        (SMALLEST + "attribution: {node_threshold: 1.5}", "attribution.node_threshold: Input should be less than"),
        (
            SMALLEST + "statistics: {bootstrap: many}",
            "statistics.bootstrap: a whole number is expected here, not the text 'many'",
        ),
        (SMALLEST + "threads: 0", "threads: Input should be greater than 0"),
        (SMALLEST + "threads: 1\nthreads: 2", "key 'threads' is given twice"),
        ("models: {a: [", "not valid YAML"),
        ("models: {a: {known: [gemma]}}", "unknown model '['gemma']'"),
        ("- models", "a mapping is expected here, not a list"),
        ("models: {my model: {path: x, transcoders: y}}", "models: 'my model' is not a valid name (letters, digits,"),
        ("models: {'a;rm -rf b': {path: x, transcoders: y}}", "rename it, for instance to 'a_rm_-rf_b'"),
        ("models: {-rf: {path: x, transcoders: y}}", "rename it, for instance to 'rf'"),
        ("models: {a/../b: {path: x, transcoders: y}}", "models: 'a/../b' is not a valid name"),
        ("models: {a..b: {path: x, transcoders: y}}", "rename it, for instance to 'a.b'"),
    ],
    ids=lambda value: value[:30],
)
def test_a_mistake_is_named_with_its_place(tmp_path, text, expected):
    assert expected in complaint(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    ["text: {{name}}", "registered: 2025-13-45", "? [1, 2]\n: 3", "n: !!int abc", "when: !!timestamp soon"],
)
def test_what_yaml_cannot_make_is_one_line(tmp_path, text):
    path = tmp_path / "case.yaml"
    path.write_text(text + "\n")
    with pytest.raises(InputError, match=r"case\.yaml: not valid YAML") as error:
        read_yaml(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.yaml: no such file"):
        load_config(tmp_path / "nothing.yaml")


def test_an_unknown_model_lists_the_known_ones():
    config = load_config(ROOT / "config.yaml")
    with pytest.raises(InputError, match=r"unknown model 'gemma'\. Did you mean 'gemma-3-4b'\? Known models .*elegans"):
        config.model("gemma")


def test_cases_of_a_model(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "models: {a: {path: x, transcoders: y}, b: {path: x, transcoders: y, cases: [two]}}\n"
    )
    config = load_config(tmp_path / "config.yaml")
    assert config.cases_of("a", ["one", "two"]) == ["one", "two"]
    assert config.cases_of("b", ["one", "two"]) == ["two"]
    with pytest.raises(InputError, match="unknown case 'two' for model 'b'"):
        config.cases_of("b", ["one"])
    asked = config.model_copy(update={"cases": ("one",)})
    assert (asked.cases_of("a", ["one", "two"]), asked.cases_of("b", ["one", "two"])) == (["one"], [])


def test_organisms_and_their_twins_run_on_request(tmp_path):
    paths = "path: x, transcoders: y, "
    text = f"models: {{a: {{{paths}role: organism, cases: [one]}}, b: {{{paths}role: twin, of: a, cases: [one]}}, c: {{{paths}}}}}\n"
    (tmp_path / "config.yaml").write_text(text)
    assert load_config(tmp_path / "config.yaml").on_request == ["a", "b"]
    assert "models.b: an organism, and what is `of` one, needs `cases: [<its case>]`" in complaint(
        tmp_path, text.replace("of: a, cases: [one]", "of: a")
    )


@pytest.mark.parametrize("name", ["a", "gemma-2-2b-clt-2.5m", "Qwen3_0.6B", "_template"])
def test_what_a_name_may_hold(name):
    assert refused_name(name) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("story copy", "for instance to 'story_copy'"),
        ("a;b", "not a valid name"),
        ("-rf", "not a valid name"),
        (".x", "not a valid name"),
        ("steer", "page"),
    ],
)
def test_a_folder_that_cannot_be_a_case_is_named(tmp_path, name, said):
    (tmp_path / "experiments" / name).mkdir(parents=True)
    (tmp_path / "experiments" / name / "case.yaml").touch()
    with pytest.raises(InputError, match=said) as error:
        discover_cases(tmp_path)
    assert str(tmp_path / "experiments" / name) in str(error.value) and "\n" not in str(error.value)


def test_configuration_is_frozen():
    config = load_config(ROOT / "config.yaml")
    with pytest.raises(ValueError, match="frozen"):
        config.threads = 4
