"""The page in which a model runs: its numbers are torch's, what it holds is what `biology steer` holds, and it can be used by everybody.

The page is made here from the shipped weights and supernodes and a small atlas, whether the pipeline has run or not.
"""

import functools
from dataclasses import replace
from urllib.parse import unquote

import pandas as pd
import pytest
import torch

import biology as bio
from biology.config import load_config
from biology.interventions.generation import generate
from biology.interventions.held_features import DRAWS, HeldFeature, at_every_token, hold_features, no_edits, said
from biology.models.model import encode, run, token_batch
from biology.models.text import continuation
from biology.records import InputError
from biology.report.lab_page import MOST_BYTES, lab_page
from biology.tables import write_table
from biology.transcoders.activations import cache_features
from browser.conftest import ROOT, asked, sideways, violations

pytestmark = pytest.mark.browser

DALLAS = "Fact: the capital of the state containing Dallas is"
CALIFORNIA = f"prompt={DALLAS.replace(' ', '+')}&hold=multi_hop/oakland/bridge*2"
CLOSE = 1e-4
SHOWS = "([text, name]) => lab.state.text === text && lab.state.holds[0]?.name === name"
"""That the page shows this prompt with this held. Its address would not tell: the page writes what it was asked in its own form."""
CASES = {name: cases for name in ("elegans", "elegans-languages") if (cases := asked(name))}


class Made:
    """A page, and the model that it holds as torch runs it: with the transcoders cut down to the features of the page."""

    def __init__(self, name, root):
        from biology.supernodes.atlas import feature_atlas, sample

        self.name = name
        self.model, self.transcoders = bio.load(name)
        self.cases = {case: bio.case(case) for case in CASES[name]}
        texts = [(case, item.text) for case, study in self.cases.items() for item in study.case.items]
        prompts = sample(pd.DataFrame(texts, columns=["source", "text"]), most=100)
        for folder in ("data/models", "data/words", "experiments", "reports"):
            (root / folder).parent.mkdir(parents=True, exist_ok=True)
            (root / folder).symlink_to(ROOT / folder)
        run_folder = root / "data/runs" / name
        for table, frame in zip(
            ("atlas", "atlas_prompts"), feature_atlas(self.model, self.transcoders, prompts), strict=True
        ):
            write_table(run_folder / f"{table}.parquet", frame, table)
        self.path = root / "lab.html"
        self.path.write_bytes(lab_page(root, load_config(ROOT / "config.yaml"), name))

    def opened(self, open_page, fragment="", **options):
        page = open_page(self.path, fragment, **options)
        page.wait_for_function("window.lab && lab.result")
        page.evaluate("lab.settled()")
        return page

    def carried(self, page):
        """The transcoders with the features of the page, and the place of each feature's number in its layer."""
        kept = page.evaluate("lab.facts.features")
        layers = [
            replace(layer, W_enc=layer.W_enc[at], b_enc=layer.b_enc[at], W_dec=layer.W_dec[at], threshold=layer.threshold[at])
            for layer, at in zip(self.transcoders.layers, map(torch.tensor, kept), strict=True)
        ]  # fmt: skip
        places = [{feature: place for place, feature in enumerate(features)} for features in kept]
        return replace(self.transcoders, layers=tuple(layers)), places


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Factory: `pages(name)` is the page of a model, made once."""
    return functools.cache(lambda name: Made(name, tmp_path_factory.mktemp("lab")))


@pytest.fixture(params=list(CASES))
def made(request, pages):
    return pages(request.param)


@pytest.fixture
def elegans(pages):
    return pages("elegans")


def far(shown, expected):
    """The largest difference between probabilities of the page and of torch."""
    return float((torch.tensor(shown, dtype=torch.float64) - expected).abs().max())


def test_it_is_one_small_file(made):
    assert made.path.stat().st_size <= MOST_BYTES == 8_000_000


def test_all_prompts_of_the_cases_have_the_tokens_that_the_tokenizer_gives_them(made, open_page):
    page = made.opened(open_page)
    texts = [item.text for study in made.cases.values() for item in study.case.items]
    texts += [text for study in made.cases.values() for text in study.prompts.values()]
    texts += [
        "<bos> Dallas",
        "New Yorkers",
        "New York",
        "the  New York\n, Salt Lake City",
        "Dallas<eos>",
        "X Dallas",
        "small (小)",
    ]
    found = page.evaluate(
        "texts => texts.map(text => { try { return lab.network.words.encode(text) } catch (error) { return error.message } })",
        texts,
    )
    for text, ids in zip(texts, found, strict=True):
        try:
            assert ids == encode(made.model, text), text
        except InputError as error:
            assert repr(ids.split("“")[1].split("”")[0]) in str(error)


def test_what_it_says_and_which_features_are_active_is_what_torch_says(made, open_page):
    page = made.opened(open_page)
    transcoders, _ = made.carried(page)
    texts = [item.text for study in made.cases.values() for item in study.case.items]
    texts = texts[:: len(texts) // 40]
    read = "texts => texts.map(text => { const one = lab.reading(text); return [[...one.said], one.active] })"
    found = page.evaluate(read, texts)
    ids = [encode(made.model, text) for text in texts]
    cache = cache_features(made.model, transcoders, ids)
    for number, (probabilities, active) in enumerate(found):
        logits, _ = run(made.model, token_batch(made.model, ids[number]), positions=-1)
        assert far(probabilities, logits[0, 0].double().softmax(-1)) <= CLOSE
        for layer in range(made.model.n_layers):
            for pos in range(len(ids[number])):
                expected = dict(zip(*(part.tolist() for part in cache.cell(number, layer, pos)), strict=True))
                shown = dict(map(tuple, active[layer][pos]))
                assert shown.keys() == expected.keys()
                assert max([0.0, *(abs(shown[place] - value) for place, value in expected.items())]) <= CLOSE


def test_every_number_of_sixteen_bits_is_read(elegans, open_page):
    bits = torch.arange(65536, dtype=torch.int32).to(torch.uint16)
    page = elegans.opened(open_page)
    for name, dtype in (("half", torch.float16), ("brain", torch.bfloat16)):
        expected = bits.view(dtype).double()
        known = expected.isfinite()
        found = page.evaluate(f"Array.from({{length: 65536}}, (_, bits) => String({name}(bits)))")
        assert [float(found[place]) for place in known.nonzero()[:, 0].tolist()] == expected[known].tolist()


@pytest.mark.parametrize("more", ["", "&write=6", "~own", "&every=1&write=5"])
def test_holding_and_its_control_are_those_of_steer(made, open_page, more):
    """Every example of the page: probabilities with what is held and in the mean over the control's sets, and all lines."""
    page = made.opened(open_page)
    transcoders, places = made.carried(page)
    model, stop = made.model, made.model.tokenizer.eos_token_id
    examples = page.eval_on_selector_all("#examples details a", "links => links.map(link => link.getAttribute('href'))")
    assert len(examples) >= 5
    for address in examples[::2]:
        page.evaluate("address => { location.hash = address }", address + more)
        prompt, hold = (part.partition("=")[2] for part in address.split("&"))
        page.wait_for_function(SHOWS, arg=[unquote(prompt), hold.partition("*")[0]])
        page.evaluate("lab.settled()")
        state = page.evaluate("lab.state")
        case, source, name = state["holds"][0]["name"].split("/")
        nodes, study = made.cases[case].supernodes(model, made.transcoders), made.cases[case]
        text, node, ids = state["text"], nodes[source, name], encode(model, state["text"])
        here = next(item for item, prompt in study.prompts.items() if prompt == text)
        held, own = {}, nodes.get((here, name))
        if state["holds"][0]["own"] and own:
            held |= {
                (la, places[la][f]): HeldFeature(value, own.pos, -1.0, (own.text, own.pos))
                for la, f, value in own.features
            }
        at = dict(node.places).get(text)
        held |= {
            (la, places[la][f]): HeldFeature(value, at, 1.0, (node.text, node.pos)) for la, f, value in node.features
        }
        pushed = hold_features(model, transcoders, ids, held, strength=2.0)
        arms = [pushed.edits, pushed.control()]
        arms = [(no_edits(arm), at_every_token(model, arm, ids)) if state["every"] else (arm, None) for arm in arms]
        shown = page.evaluate("[lab.result.steered.said, lab.control.said].map(said => [...said])")
        for rows, (fixed, every), probabilities in zip((1, DRAWS), arms, shown, strict=True):
            expected = said(model, transcoders, [ids] * rows, fixed, every)
            assert far(probabilities, expected) <= CLOSE, address
        if state["most"]:
            lines = page.evaluate("[lab.result.clean.line, lab.result.steered.line, ...lab.control.lines]")
            written = generate(model, transcoders, [ids], no_edits(pushed.edits), state["most"], stop=stop)
            for rows, (fixed, every) in zip((1, DRAWS), arms, strict=True):
                written += generate(model, transcoders, [ids] * rows, fixed, state["most"], open_ended=every, stop=stop)
            assert lines == [
                continuation(model.tokenizer, ids, [token for token in tokens if token != stop]) for tokens in written
            ]


def test_one_feature_is_held_at_multiples_of_its_activation_or_of_its_largest(elegans, open_page):
    page = elegans.opened(open_page)
    transcoders, places = elegans.carried(page)
    ids = encode(elegans.model, DALLAS)
    features, values = cache_features(elegans.model, transcoders, [ids]).cell(0, 3, 12)
    active = int(features[values.argmax()])
    silent = next(place for place in range(100) if place not in features.tolist())
    numbers = {place: number for number, place in places[3].items()}
    for feature, value in ((active, None), (silent, page.evaluate(f"lab.facts.largest[lab.offset(3) + {silent}]"))):
        page.evaluate(f"location.hash = 'prompt={DALLAS}&hold=3/{numbers[feature]}*-3'")
        page.wait_for_function(f"lab.state.holds[0]?.name === '3/{numbers[feature]}'")
        page.evaluate("lab.settled()")
        pushed = hold_features(elegans.model, transcoders, ids, {(3, feature): HeldFeature(value)}, strength=-3.0)
        for rows, arm, part in ((1, pushed.edits, "lab.result.steered"), (DRAWS, pushed.control(), "lab.control")):
            expected = said(elegans.model, transcoders, [ids] * rows, arm)
            assert far(page.evaluate(f"[...{part}.said]"), expected) <= CLOSE


def test_several_supernodes_are_held_in_the_order_in_which_they_are_named(elegans, open_page):
    """They share features, of which the later one decides; one is the prompt's own, and one is held down."""
    page = elegans.opened(open_page, f"{CALIFORNIA}&hold=multi_hop/dallas/bridge*1.5&hold=multi_hop/dallas/city*-1@9")
    transcoders, places = elegans.carried(page)
    nodes, held = elegans.cases["multi_hop"].supernodes(elegans.model, elegans.transcoders), {}
    for item, name, pos, strength in (
        ("oakland", "bridge", 11, 2.0),
        ("dallas", "bridge", 11, 1.5),
        ("dallas", "city", 9, -1.0),
    ):
        node = nodes[item, name]
        taken = node.text, node.pos
        held |= {(la, places[la][f]): HeldFeature(value, pos, strength, taken) for la, f, value in node.features}
    ids = encode(elegans.model, DALLAS)
    pushed = hold_features(elegans.model, transcoders, ids, held)
    for rows, arm, part in ((1, pushed.edits, "lab.result.steered"), (DRAWS, pushed.control(), "lab.control")):
        assert far(page.evaluate(f"[...{part}.said]"), said(elegans.model, transcoders, [ids] * rows, arm)) <= CLOSE


def test_it_begins_with_dallas_and_a_click_changes_its_mind_but_not_the_controls(elegans, open_page):
    page = elegans.opened(open_page)
    assert page.input_value("#prompt") == DALLAS and "says “Austin”" in page.inner_text("#told")
    assert page.locator("#answers section").count() == 1
    page.get_by_role("link", name="hold California", exact=False).first.click()
    page.wait_for_function("lab.control")
    page.evaluate("lab.settled()")
    by_itself, steered, control = (
        page.locator("#answers section").nth(number).locator("li span").first.inner_text() for number in range(3)
    )
    assert (by_itself, steered, control) == ("Austin", "Sacramento", "Austin")
    told = page.inner_text("#told")
    assert "With California held at 2 it says “Sacramento”" in told and "just as hard: “Austin”" in told
    assert "--supernode multi_hop/oakland/bridge --strength 2" in page.inner_text("#terminal")
    assert page.locator("#grid .held-here").count() > 0
    page.get_by_role("button", name="hold nothing").click()
    assert page.locator("#answers section").count() == 1


@pytest.mark.at_rest
def test_the_first_answer_comes_at_once_and_a_drag_is_followed(elegans, open_page):
    """The bounds are for a machine at rest: the best of a few counts."""
    first = min(
        elegans.opened(open_page).evaluate("performance.getEntriesByName('ready')[0].startTime") for _ in range(3)
    )
    assert first <= 2000
    page = elegans.opened(open_page, CALIFORNIA)
    slider = page.locator("#held input[type=range]")
    slider.focus()
    page.evaluate("performance.clearMeasures('answer')")
    for _ in range(12):
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(60)
    page.evaluate("lab.settled()")
    took = page.evaluate("performance.getEntriesByName('answer').map(entry => entry.duration)")
    assert len(took) >= 6 and sorted(took)[len(took) // 2] <= 50


@pytest.mark.skipif("rhyme_planning" not in CASES["elegans"], reason="this checkout asks no couplets")
def test_a_couplet_is_written_to_its_last_word(elegans, open_page):
    page = elegans.opened(open_page)
    page.get_by_role("link", name="hold plan: habit", exact=False).first.click()
    page.wait_for_function("lab.control?.lines")
    clean, steered = (page.evaluate(f"lab.result.{arm}.line.split(' ').at(-1)") for arm in ("clean", "steered"))
    assert (clean, steered) == ("rabbit", "habit")
    assert "of 10 sets" in page.locator("#answers section").nth(2).inner_text()


def test_strength_by_keyboard_and_the_link_that_keeps_it(elegans, open_page):
    page = elegans.opened(open_page, CALIFORNIA)
    slider = page.locator("#held input[type=range]")
    slider.focus()
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    page.wait_for_function("lab.state.holds[0].strength === 0")
    page.evaluate("lab.settled()")
    assert page.locator("#answers section").nth(1).locator("li span").first.inner_text() == "Austin"
    page.get_by_label("at every token").check()
    page.wait_for_function("location.hash.includes('every=1') && location.hash.includes('*0')")
    again = elegans.opened(open_page, page.evaluate("location.hash.slice(1)"))
    assert again.evaluate("lab.state") == page.evaluate("lab.state")
    assert again.inner_text("#told") == page.inner_text("#told")


def test_layers_and_tokens_by_keyboard_and_a_feature_that_is_opened_and_held(elegans, open_page):
    page = elegans.opened(open_page, CALIFORNIA)
    page.locator("#grid [aria-pressed=true]").focus()
    before = page.evaluate("lab.state.cell")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("lab.state.cell") == [before[0] + 1, before[1] - 1]
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    row = page.locator("#features button").first
    name = row.locator("b").inner_text()
    row.click()
    card = page.locator("#card")
    card.get_by_role("heading", name=f"Feature {name}", exact=True).wait_for()
    assert card.get_by_role("link").get_attribute("href") == f"atlas.html#{name.replace('/', '-')}"
    assert card.locator("mark").count() > 0
    card.get_by_role("button").click()
    assert page.evaluate("lab.state.holds.at(-1)") == {"name": name, "strength": 2, "pos": before[1] - 1, "own": False}
    page.get_by_role("button", name="Texas", exact=True).click()
    assert page.evaluate("lab.state.holds.at(-1)") == {
        "name": "multi_hop/dallas/bridge",
        "strength": 0,
        "pos": None,
        "own": False,
    }


def test_a_word_that_it_does_not_know_is_named_and_is_text(elegans, open_page):
    page = elegans.opened(open_page)
    page.fill("#prompt", "<img src=x onerror=alert(1)> Dallas")
    problem = page.locator("#problem")
    assert "does not know the word “" in problem.inner_text() and problem.locator("*").count() == 0
    page.fill("#prompt", "the " * 200)
    assert "reads 128 at most" in problem.inner_text()
    assert page.evaluate("lab.state.text") == DALLAS
    page.fill("#prompt", "Fact: the capital of the state containing Oakland is")
    assert problem.is_hidden() and "Sacramento" in page.inner_text("#told")


def test_a_link_to_what_is_not_there_is_no_harm(elegans, open_page):
    page = elegans.opened(
        open_page, f"prompt={DALLAS}&hold=multi_hop/nobody/bridge*2&hold=9/9*2&hold=%ZZ&see=77.1&write=x"
    )
    state = page.evaluate("lab.state")
    assert (state["text"], state["holds"], state["most"]) == (DALLAS, [], 0)
    page = elegans.opened(open_page, "prompt=xyzzy")
    assert page.evaluate("lab.state.text") == DALLAS and "“xyzzy”" in page.inner_text("#problem")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(made, open_page, scheme):
    page = made.opened(open_page, color_scheme=scheme)
    page.locator("#examples a").first.click()
    page.wait_for_function("lab.control")
    page.locator("#features button").first.click()
    page.locator("#examples summary").click()
    assert violations(page) == []


def test_it_fits_a_phone(made, open_page):
    page = made.opened(open_page, width=360, height=740)
    page.locator("#examples a").last.evaluate("link => link.click()")
    page.wait_for_function("lab.control")
    page.locator("#features button").first.click()
    assert sideways(page) == 0
