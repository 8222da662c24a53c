"""Every page that the pipeline wrote: opens from disk, asks for nothing, fits a phone, is readable by everybody."""

import pytest
from multi_hop_tables import write_repository

from biology.cases.case import load_case
from biology.config import load_config
from biology.report import case_report as report
from biology.report.pages import MOST_BYTES
from browser.conftest import sideways, violations, written_pages

pytestmark = pytest.mark.browser

PAGES = written_pages()
WIDTHS = (360, 768, 1440)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """A case's page from made-up tables, so that there is a page even where the pipeline has not run."""
    root = write_repository(tmp_path_factory.mktemp("repository"))
    path = root / "reports/elegans/multi_hop.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    page = report.case_page(root, load_config(root / "config.yaml"), "elegans", load_case(root, "multi_hop"))
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture(
    params=[None, *PAGES], ids=lambda path: "made_up" if path is None else f"{path.parent.name}-{path.stem}"
)
def path(request):
    return request.param or request.getfixturevalue("made_up")


def test_it_is_small(path):
    """The pages in which a model runs have a bound of their own."""
    assert path.stat().st_size <= MOST_BYTES or path.stem == "lab"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_it(open_page, path, scheme):
    page = open_page(path, color_scheme=scheme)
    page.wait_for_load_state("load")
    assert violations(page) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits(open_page, path, width):
    page = open_page(path, width=width, height=740)
    page.wait_for_load_state("load")
    assert sideways(page) == 0


def test_it_reads_without_scripts(open_page, path):
    page = open_page(path, java_script_enabled=False)
    assert len(page.locator("main").inner_text()) > 500


def test_every_link_within_it_leads_somewhere(open_page, path):
    """To a place; addresses of a state (a=b, a/b, layer-feature) are read by scripts and tested where those are."""
    page = open_page(path)
    lost = page.evaluate(
        """[...document.querySelectorAll('a[href^="#"]')].map(a => a.getAttribute('href').slice(1))
           .filter(id => id && !/[=/]|^[0-9]+-[0-9]+$/.test(id) && !document.getElementById(decodeURIComponent(id)))"""
    )
    assert lost == []
