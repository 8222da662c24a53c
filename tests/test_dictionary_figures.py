"""Figures of dictionaries state the numbers of their tables, and the same tables give the same bytes."""

import numpy as np
import pytest

from biology.figures.dictionary_figures import FIGURES, draw
from biology.records import InputError
from biology.tables import read_table, table, write_table

METRICS = {
    "l0": 12.0, "fvu": 0.25, "explained_variance": 0.75, "dead": 0.02, "dense": 0.05, "features": 40.0, "tokens": 900.0,
    "loss_clean": 1.0, "loss_spliced": 1.2, "loss_zero": 4.0, "loss_mean": 3.0, "recovered_from_zero": 0.93,
    "recovered_from_mean": 0.875, "agreement": 0.8,
}  # fmt: skip


def planted():
    """Tables of three layers with 40 features, and of two transcoder sets beside the neurons."""
    rng = np.random.default_rng(0)
    rows = [
        {"layer": layer, "metric": metric, "value": value * (3 if layer == "all" and metric == "l0" else 1)}
        for layer in ("0", "1", "2", "all")
        for metric, value in METRICS.items()
    ]
    density = [
        {"layer": layer, "feature": feature, "density": float(0 if feature < 4 else rng.beta(1, 40))}
        for layer in range(3)
        for feature in range(40)
    ]
    errors = [
        {
            "layer": layer, "l0": float(l0), "tokens": 100, "error": 0.1 if l0 < 3 else 0.3, "low": 0.05, "median": 0.1,
            "high": 0.4,
        }
        for layer in range(3)
        for l0 in range(1, 5)
    ]  # fmt: skip
    compared = []
    for name, recovered in (("plt", 0.5), ("clt", 0.9), ("neurons", -2.0)):
        for variant, target in (("thinned", 4.0), ("thinned", 8.0), ("shipped", 0.0)):
            if variant == "shipped" and name == "clt":
                l0 = 8.0
            else:
                l0 = target or 30.0
            compared.append(
                {
                    "dictionary": name, "variant": variant, "target": target, "features": 40, "parameters": 900, "l0": l0,
                    "fvu": 1 / l0, "recovered_from_zero": recovered, "recovered_from_mean": recovered, "agreement": 0.5,
                }
            )  # fmt: skip
    made = {"dictionary": rows, "density": density, "token_errors": errors, "comparison": compared}
    return {name: table(name, listed) for name, listed in made.items()}


@pytest.fixture
def run(tmp_path):
    for name, frame in planted().items():
        write_table(tmp_path / f"{name}.parquet", frame, name)
    return tmp_path


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        (
            "dictionary_layers",
            "36 active features a token explain 75.0% of what the MLPs write and recover 87.5% of the loss",
        ),
        ("feature_density", "half of the features that fire do so on fewer than "),
        ("feature_density", "10.0% are dead"),
        ("error_by_l0", "tokens with more active features than the median have 3.0 times the error"),
        (
            "dictionary_comparison",
            "With 8 active features a token, loss recovered: clt 90.0%, plt 50.0%, neurons less than none",
        ),
    ],
)
def test_a_title_states_what_came_out(run, figure, said):
    made, again = draw(figure, run, "tiny"), draw(figure, run, "tiny")
    assert made == again and made["png"].startswith(b"\x89PNG")
    assert said in made["svg"].decode("utf-8")


def test_the_title_of_the_densities_is_computed_from_all_of_them(run):
    density = read_table(run / "density.parquet", "density")["density"]
    said = draw("feature_density", run, "tiny", forms=("svg",))["svg"].decode("utf-8")
    middle, dense = density[density > 0].median(), (density > 0.1).mean()
    assert f"on fewer than {middle:.2%} of tokens; 10.0% are dead, {dense:.1%} dense" in said


def test_the_style_file_restyles_every_figure_of_a_dictionary(run, restyled):
    for figure in FIGURES:
        assert b"#117733" in restyled(draw(figure, run, "tiny", forms=("svg",)))


def test_what_cannot_be_drawn_is_named(run):
    with pytest.raises(InputError, match="unknown figure 'nothing' of a dictionary. Figures: dictionary_layers"):
        draw("nothing", run, "tiny")
    (run / "density.parquet").unlink()
    with pytest.raises(InputError, match="density.parquet: no such table"):
        draw("feature_density", run, "tiny")
    assert len(FIGURES) == 4
