"""How wide a printed text is, and what colours look like."""

from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from biology.figures.drawing import BOLD, colour, styled, text_width


@pytest.mark.parametrize("weight", [400, BOLD])
@pytest.mark.parametrize(
    "text", ["i", "O", "jf(", "“Say Austin”", "M = −1.5", "Wo ist das große J", "首都 of 反义词", "Где"]
)
def test_a_text_is_as_wide_as_all_its_outlines_together(text, weight):
    with styled():
        face = FontProperties(family=mpl.rcParams["font.family"], weight=weight)
        assert text_width(text, 8.5, weight) == TextPath((0, 0), text, size=8.5, prop=face).get_extents().width / 72


# Machado, Oliveira and Fernandes (2009), in linear RGB, at full severity.
SEEN = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])


def lab(linear):
    """CIELAB of a colour in linear RGB, in which a distance of about 2 can just be seen."""
    x, y, z = np.cbrt(np.maximum(XYZ @ linear / WHITE, 1e-4))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SEEN)
def test_no_two_colours_of_the_figures_look_alike_to_the_colour_blind(sight):
    with styled():
        names = [f"C{number}" for number in range(len(mpl.rcParams["axes.prop_cycle"]))] + ["axes.edgecolor"]
        shown = np.array([to_rgb(colour(name)) for name in names])
    linear = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    seen = [lab(np.clip(np.array(SEEN[sight]) @ one, 0, 1)) for one in linear]
    assert min(float(np.linalg.norm(one - other)) for one, other in combinations(seen, 2)) > 10
