"""How wide a printed text is."""

import matplotlib as mpl
import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from biology.figures.drawing import BOLD, styled, text_width


@pytest.mark.parametrize("weight", [400, BOLD])
@pytest.mark.parametrize(
    "text", ["i", "O", "jf(", "“Say Austin”", "M = −1.5", "Wo ist das große J", "首都 of 反义词", "Где"]
)
def test_a_text_is_as_wide_as_all_its_outlines_together(text, weight):
    with styled():
        face = FontProperties(family=mpl.rcParams["font.family"], weight=weight)
        assert text_width(text, 8.5, weight) == TextPath((0, 0), text, size=8.5, prop=face).get_extents().width / 72
