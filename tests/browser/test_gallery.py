"""The gallery in a real Chromium, from the disk: what a reader clicks, types and sees."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import AXE, console_errors, open_page, set_screen, wait_until
from scene_run import SceneRun
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select
from story_run import FAILED, HOSTILE, StoryRun

from pipelines.gallery import GalleryConfig, build_gallery


@pytest.fixture(autouse=True)
def no_console_error(browser: Any) -> Iterator[None]:
    """Nothing may be refused, missing or thrown, in any test."""
    console_errors(browser)
    yield
    assert console_errors(browser) == []


def all_of(driver: Any, selector: str) -> list[Any]:
    return driver.find_elements(By.CSS_SELECTOR, selector)


def one_of(driver: Any, selector: str) -> Any:
    return driver.find_element(By.CSS_SELECTOR, selector)


def heads(driver: Any) -> list[str]:
    return [one.text for one in all_of(driver, ".strip h3")]


def count(driver: Any) -> str:
    return one_of(driver, "#count").text


def choose(driver: Any, field: str, value: str) -> None:
    turn = one_of(driver, "#strips").get_attribute("data-turn")
    Select(one_of(driver, f"#{field}")).select_by_value(value)
    wait_until(lambda: one_of(driver, "#strips").get_attribute("data-turn") != turn)


def type_in(driver: Any, field: str, text: str) -> None:
    turn = one_of(driver, "#strips").get_attribute("data-turn")
    one_of(driver, f"#{field}").send_keys(text)
    wait_until(lambda: one_of(driver, "#strips").get_attribute("data-turn") != turn)


def press(driver: Any, *keys: str) -> None:
    driver.switch_to.active_element.send_keys(*keys)


def test_it_says_at_once_which_round_lost_the_meaning_and_why(driver: Any, gallery: Path) -> None:
    open_page(driver, gallery / "index.html", "#status=lost&q=red")
    assert "20 lost it" in one_of(driver, "#headline").text
    assert heads(driver)[0] == "Meaning lost in round 1"
    strip = one_of(driver, ".strip")
    assert 'went for good, "large", "red", "circle", "blue", "square"' in strip.text
    assert one_of(strip, ".is-turning h4").text.split("\n") == ["Round 1", "lost here"]
    marked = [one.text for one in all_of(strip, ".is-turning ins")]
    struck = [one.text for one in all_of(strip, ".is-turning del")]
    assert (marked, struck) == (
        ["tiny green star", "yellow cross"],
        ["large red circle", "blue square"],
    )


def test_the_headline_names_the_round_that_lost_most(driver: Any, tmp_path: Path) -> None:
    def told(name: str, kind: type[StoryRun] | type[SceneRun], num_seeds: int) -> tuple[str, str]:
        folder = tmp_path / name
        folder.mkdir()
        kind(folder=folder, num_seeds=num_seeds).write_all()
        build_gallery(str(folder), None, GalleryConfig())
        open_page(driver, folder / "gallery" / "index.html")
        return one_of(driver, "#headline").text, one_of(driver, "#oracle").text

    # One is kept, one lost in round 1, one drifted in round 2.
    words, oracle = told("stories", StoryRun, 3)
    assert "Most meaning went in round 1: it turned 1 of the 2 that lost it or drifted." in words
    assert not oracle
    words, oracle = told("scenes", SceneRun, 6)
    assert "Most meaning went in round 2: it turned 6 of the 6" in words
    assert "descriptions still tell 100%, 100%, 50% in rounds 0 to 2 (6 chains" in oracle


def test_every_picture_is_drawn_and_has_a_text(driver: Any, gallery: Path) -> None:
    open_page(driver, gallery / "index.html", "#q=red&status=kept")
    names = [one.get_attribute("aria-label") for one in all_of(driver, "svg.picture")]
    assert names[0] == "Picture of round 0: a large red circle above a small blue square"
    sizes = driver.execute_async_script(
        "const done = arguments[0];"
        "Promise.all([...document.querySelectorAll('svg.picture image')].map((one) => {"
        "const image = new Image(); image.src = one.href.baseVal;"
        "return image.decode().then(() => image.naturalWidth);})).then(done, () => done(null));"
    )
    assert sizes is not None
    assert all(width >= 48 for width in sizes)


def test_search_finds_words_prefixes_and_ids_and_says_when_nothing_is_found(
    driver: Any, gallery: Path
) -> None:
    open_page(driver, gallery / "index.html")
    assert count(driver) == "All 50 chains"
    type_in(driver, "q", "hexag")
    assert count(driver) == "Found 10 chains"
    type_in(driver, "q", " n3")
    assert count(driver) == "Found 1 chain"
    chain = one_of(driver, ".strip").get_attribute("data-chain")
    one_of(driver, "#reset").click()
    wait_until(lambda: count(driver) == "All 50 chains")
    type_in(driver, "q", f"{chain}-001")
    assert [one.get_attribute("data-chain") for one in all_of(driver, ".strip")] == [chain]
    type_in(driver, "q", " nowhere")
    assert count(driver) == "No chain is like that: clear a filter."


def test_filters_by_click_and_by_choice_agree_and_go_into_the_address(
    driver: Any, gallery: Path
) -> None:
    open_page(driver, gallery / "index.html")
    one_of(driver, "button[data-field=status][data-value=failed]").click()
    wait_until(lambda: count(driver) == "Found 10 chains")
    assert set(heads(driver)) == {"Broke off in round 1 (describe)"}
    choose(driver, "round", "0")
    assert count(driver).startswith("No chain")
    choose(driver, "round", "1")
    choose(driver, "code", "engine_error")
    assert count(driver) == "Found 10 chains"
    address = driver.current_url.partition("#")[2]
    open_page(driver, gallery / "index.html", f"#{address}")
    assert count(driver) == "Found 10 chains"
    cell = one_of(driver, ".failed .is-turning")
    assert 'engine_error in describe: the <engine> raised & gave "up"' in cell.text
    assert one_of(cell, "svg.picture")


def test_sorting_by_drift_puts_most_or_least_first(driver: Any, gallery: Path) -> None:
    open_page(driver, gallery / "index.html", "#q=red")
    assert heads(driver)[0] == "Meaning lost in round 1"
    choose(driver, "sort", "drift:up")
    assert heads(driver)[0].startswith("Meaning kept")


def test_scores_are_shown_sorted_by_and_ranged(driver: Any, scored_gallery: Path) -> None:
    open_page(driver, scored_gallery / "index.html")
    assert "clip similarity" in one_of(driver, ".scores").text
    choose(driver, "sort", "clip_similarity:down")
    shown = [float(one.text) for one in all_of(driver, ".round:last-child .scores dd")]
    assert shown == sorted(shown, reverse=True)
    choose(driver, "score", "clip_similarity")
    type_in(driver, "low", "0.18")
    assert count(driver) == "Found 2 chains"
    choose(driver, "sort", "seed:up")
    assert count(driver) == "Found 2 chains"


def test_a_drift_range_picks_chains_with_such_a_pair(driver: Any, gallery: Path) -> None:
    open_page(driver, gallery / "index.html", "#q=red&low=60&high=75")
    assert count(driver) == "Found 10 chains"
    assert set(heads(driver)) == {"Meaning lost in round 1"}


def test_keys_move_open_search_compare_and_help(driver: Any, gallery: Path) -> None:
    open_page(driver, gallery / "index.html", "#q=red&status=lost")
    press(driver, "j")
    press(driver, "j")
    strips = all_of(driver, ".strip")
    assert driver.switch_to.active_element == strips[1]
    press(driver, "k")
    press(driver, Keys.ENTER)
    wait_until(lambda: one_of(driver, "#details").get_attribute("open"))
    assert one_of(driver, "#details-title").text == "Round 1"
    press(driver, Keys.ARROW_RIGHT)
    assert one_of(driver, "#details-title").text == "Round 2"
    assert "by-hand, 1, none" in one_of(driver, "#details").text
    assert str(2**62 + 1)[:6] in one_of(driver, "#details").text  # no digit is lost on the way
    press(driver, Keys.ESCAPE)
    assert not one_of(driver, "#details").get_attribute("open")
    assert driver.switch_to.active_element == strips[0]
    press(driver, Keys.ARROW_DOWN)
    assert driver.switch_to.active_element == strips[1]
    press(driver, "c")
    wait_until(lambda: one_of(driver, "#compare").get_attribute("value") == "seed")
    press(driver, "?")
    wait_until(lambda: one_of(driver, "#help").get_attribute("open"))
    press(driver, Keys.ESCAPE)
    press(driver, "/")
    assert driver.switch_to.active_element.get_attribute("id") == "q"
    press(driver, "j")
    assert one_of(driver, "#q").get_attribute("value") == "redj"


def test_comparing_with_the_seed_marks_what_the_seed_does_not_say(
    driver: Any, gallery: Path
) -> None:
    open_page(driver, gallery / "index.html", "#q=red&status=lost")
    last = one_of(driver, ".strip .round:last-child")
    assert all_of(last, "ins") == []
    choose(driver, "compare", "seed")
    marked = [one.text for one in all_of(driver, ".strip:first-child .round:last-child ins")][:2]
    assert marked == ["tiny green star", "yellow cross"]


def test_pages_turn_by_button_and_key(driver: Any, gallery: Path) -> None:
    open_page(driver, gallery / "index.html")
    assert one_of(driver, "#page-number").text == "Page 1 of 3"
    one_of(driver, "#page-next").click()
    wait_until(lambda: one_of(driver, "#page-number").text == "Page 2 of 3")
    wait_until(lambda: "page=2" in driver.current_url)
    press(driver, "n")
    wait_until(lambda: one_of(driver, "#page-number").text == "Page 3 of 3")
    assert len(all_of(driver, ".strip")) == 10
    press(driver, "p")
    wait_until(lambda: one_of(driver, "#page-number").text == "Page 2 of 3")


def test_the_theme_follows_the_system_until_it_is_chosen(driver: Any, gallery: Path) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    open_page(driver, gallery / "index.html")
    light = driver.execute_script(paper)
    set_screen(driver, 1280, 900, "dark")
    dark = driver.execute_script(paper)
    assert light != dark
    one_of(driver, "#theme-button").click()  # light
    assert driver.execute_script(paper) == light
    one_of(driver, "#theme-button").click()  # dark
    open_page(driver, gallery / "report.html")  # is remembered, and holds there
    assert driver.execute_script(paper) == dark
    one_of(driver, "#theme-button").click()  # as the system


def test_a_phone_has_no_sideways_scrolling(driver: Any, gallery: Path) -> None:
    set_screen(driver, 390, 844)
    for page in ("index.html", "report.html"):
        open_page(driver, gallery / page)
        width = driver.execute_script("return document.documentElement.scrollWidth")
        assert width <= 390, page


def test_on_a_phone_filters_unfold_at_every_tap(driver: Any, gallery: Path) -> None:
    set_screen(driver, 390, 844)
    open_page(driver, gallery / "index.html")
    more, field = one_of(driver, "#more"), one_of(driver, "#sort")
    for is_open in (True, False, True):
        more.click()
        assert field.is_displayed() == is_open
        assert more.get_attribute("aria-expanded") == str(is_open).lower()
    choose(driver, "sort", "drift:up")  # the page is drawn anew
    more.click()
    assert not field.is_displayed()


def test_hostile_captions_are_shown_as_they_are_and_do_nothing(driver: Any, gallery: Path) -> None:
    open_page(driver, gallery / "index.html", "#q=owned&sort=seed:up")
    assert count(driver) == "Found 10 chains"
    shown = driver.execute_script(
        "return [...document.querySelectorAll('.strip .cell.seed .text')].map((p) => p.textContent)"
    )
    assert HOSTILE[0] in shown
    one_of(driver, ".frame").click()
    wait_until(lambda: one_of(driver, "#details").get_attribute("open"))
    assert "owned" not in driver.title
    assert all_of(driver, "main script, main img, main svg svg, main a, dialog script") == []
    press(driver, Keys.ESCAPE)


def test_a_page_that_is_open_offers_what_is_new(driver: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    run = StoryRun(folder=tmp_path / "run")
    run.write_unit(0)
    build_gallery(str(run.folder), None, GalleryConfig())
    open_page(driver, run.folder / "gallery" / "index.html")
    assert count(driver) == "All 2 chains"
    assert "not finished" in one_of(driver, "#headline").text
    run.write_unit(1)
    run.write_unit(2)
    build_gallery(str(run.folder), None, GalleryConfig())
    wait_until(lambda: one_of(driver, "#fresh-button").is_displayed(), 15)
    one_of(driver, "#fresh-button").click()
    wait_until(lambda: count(driver) == "All 5 chains")
    assert FAILED[0] in one_of(driver, "#strips").text


def test_a_copy_of_the_folder_works_elsewhere(driver: Any, gallery: Path, tmp_path: Path) -> None:
    copy = tmp_path / "a place with spaces"
    shutil.copytree(gallery, copy)
    open_page(driver, copy / "index.html")
    assert count(driver) == "All 50 chains"


AXE_RUN = """
const done = arguments[0];
const runOnly = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
const told = (one) => `${one.id}: ${one.nodes.map((node) => node.html.slice(0, 200)).join(" | ")}`;
axe.run(document, { preload: false, runOnly }).then(
  (found) => done(found.violations.map(told)),
  (error) => done([`axe: ${error}`]),
);
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", ["index.html", "report.html", "help", "details"])
def test_axe_finds_nothing(driver: Any, scored_gallery: Path, page: str, scheme: str) -> None:
    if not AXE.is_file():
        pytest.skip(f"no axe-core in {AXE.parent}: `make test-browser` fetches it from npm")
    driver.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})  # for axe's own needs
    try:
        set_screen(driver, 1280, 900, scheme)
        name = page if page.endswith(".html") else "index.html"
        open_page(driver, scored_gallery / name)
        if page == "help":
            one_of(driver, "#help-button").click()
        if page == "details":
            one_of(driver, ".frame").click()
            wait_until(lambda: one_of(driver, "#details").get_attribute("open"))
        driver.execute_script(AXE.read_text())
        assert driver.execute_async_script(AXE_RUN) == []
    finally:
        driver.execute_cdp_cmd("Page.setBypassCSP", {"enabled": False})
