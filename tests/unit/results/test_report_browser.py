"""The report page in a real browser, from disk: sort, filter, open a row, by pointer and by keyboard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolkit_ext.report import write_page
from toolkit_ext.results import Record

Make = Callable[..., Record]

pytestmark = pytest.mark.slow
pytest.importorskip("itables", reason="the extra report is not installed")
pytest.importorskip("plotly", reason="the extra report is not installed")

METHODS = ("pgd", "amp", "trades", "mart")


@pytest.fixture(scope="module")
def driver(browser: Any, record: Make, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A browser without a network, at the page of 200 runs."""
    from selenium.webdriver.support.ui import WebDriverWait

    records = [
        record(METHODS[i % 4], seed=i, metrics={"clean_acc": 0.9, "aa_acc": (i * 37 % 200) / 400}, intervals={})
        for i in range(200)
    ]
    path = write_page(records, tmp_path_factory.mktemp("report") / "report.html")
    browser.get(path.as_uri())
    WebDriverWait(browser, 60).until(lambda b: b.execute_script("return document.documentElement.dataset.ready"))
    return browser


def _find(driver: Any, css: str) -> list[Any]:
    return list(driver.find_elements("css selector", css))


def _column(driver: Any, name: str) -> list[str]:
    """The text of a column in the rows that are shown."""
    script = """
        const headings = [...document.querySelectorAll('#runs thead th')];
        const place = headings.findIndex((heading) => heading.dataset.name === arguments[0]);
        return [...document.querySelectorAll('#runs tbody tr[data-run]')].map((row) => row.cells[place].textContent);
    """
    return list(driver.execute_script(script, name))


def _heading(driver: Any, name: str) -> Any:
    return _find(driver, f'#runs thead th[data-name="{name}"]')[0]


def test_the_page_has_no_error_and_says_its_order(driver: Any) -> None:
    assert [line for line in driver.get_log("browser") if line["level"] in ("SEVERE", "WARNING")] == []
    assert _heading(driver, "aa_acc").get_attribute("aria-sort") == "descending"
    values = [float(text) for text in _column(driver, "aa_acc")]
    assert len(values) == 50
    assert values == sorted(values, reverse=True)
    assert values[0] == 49.75


def test_sorting_by_pointer_and_by_keyboard(driver: Any) -> None:
    _heading(driver, "seed").click()
    assert _column(driver, "seed")[:3] == ["0", "1", "2"]
    assert _heading(driver, "seed").get_attribute("aria-sort") == "ascending"
    place = _find(driver, '#runs thead th[data-name="seed"] [role="button"]')[0]
    assert place.get_attribute("tabindex") == "0"
    assert "seed" in (place.get_attribute("aria-label") or "")
    place.send_keys("\ue007")  # Enter
    assert _heading(driver, "seed").get_attribute("aria-sort") == "descending"
    assert _column(driver, "seed")[:3] == ["199", "198", "197"]


def test_filtering_by_an_axis_and_showing_all_again(driver: Any) -> None:
    select = _find(driver, '#filters select[data-column="attack"]')[0]
    assert select.accessible_name == "attack"
    select.send_keys("trades")
    assert set(_column(driver, "method")) == {"trades"}
    assert "50 entries" in _find(driver, ".dt-info")[0].text
    assert _find(driver, ".dt-info")[0].get_attribute("aria-live") == "polite"
    _find(driver, "#filters button[type=reset]")[0].click()
    assert set(_column(driver, "method")) == set(METHODS)
    search = _find(driver, ".dt-search input")[0]
    assert search.accessible_name == "Search in all columns"
    search.send_keys("mart")
    assert set(_column(driver, "method")) == {"mart"}
    _find(driver, "#filters button[type=reset]")[0].click()


def test_a_row_opens_to_its_charts_and_closes(driver: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    button = _find(driver, "#runs button.open")[0]
    run = button.find_element("xpath", "./ancestor::tr").get_attribute("data-run")
    assert button.accessible_name == f"Details of {run}"
    assert not driver.execute_script("return 'Plotly' in window")
    button.send_keys("\ue007")
    assert button.get_attribute("aria-expanded") == "true"
    WebDriverWait(driver, 60).until(lambda _: _find(driver, "section.run"))
    (section,) = _find(driver, "section.run")
    assert driver.switch_to.active_element.text == run
    WebDriverWait(driver, 60).until(lambda _: len(_find(driver, "section.run .chart svg.main-svg")) >= 2)
    assert {chart.get_attribute("role") for chart in _find(driver, "section.run .chart")} == {"img"}
    for text in ("toolkit-ext train", "zero_gradients", "steps", "AutoAttack: apgd-ce"):
        assert text in section.text
    button.click()
    assert button.get_attribute("aria-expanded") == "false"
    assert _find(driver, "section.run") == []


def test_a_group_opens_to_its_runs_and_a_run_to_its_details(driver: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    button = _find(driver, "section.ranking button.runs")[0]
    assert button.accessible_name.startswith("Runs of ")
    assert button.text.split()[0] == "50"
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    runs = _find(driver, "tr.below button.run")
    assert len(runs) == 50
    name = runs[3].text
    runs[3].send_keys("\ue007")
    WebDriverWait(driver, 60).until(lambda _: _find(driver, "tr.below section.run"))
    assert _find(driver, "tr.below section.run h2")[0].text == name
    runs[3].click()
    assert _find(driver, "section.run") == []
    button.click()
    assert _find(driver, "tr.below") == []


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_part_is_cut_off_and_the_first_column_stays(driver: Any, width: int, scheme: str) -> None:
    """At the width of a desk and of a phone, in light and in dark."""
    from selenium.webdriver.support.ui import WebDriverWait

    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        dark = "return document.documentElement.classList.contains('dark')"
        WebDriverWait(driver, 60).until(lambda b: b.execute_script(dark) == (scheme == "dark"))
        shade = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (shade == "rgb(255, 255, 255)") == (scheme == "light")
        moved = """
            const box = document.querySelector('.ranking .wide'), name = box.querySelector('tbody th');
            const before = name.getBoundingClientRect().x;
            box.scrollLeft = 60;
            return [before, name.getBoundingClientRect().x];
        """
        before, after = driver.execute_script(moved)
        assert before == after
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


HOSTILE = "<img src=x onerror='window.harmed = 1'><script>window.harmed = 1</script>"


def test_names_of_records_never_become_elements(driver: Any, record: Make, tmp_path: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    axes = dict.fromkeys(("attack", "objective", "update", "schedule"), HOSTILE)
    about: dict[str, Any] = {
        "axes": axes,
        "command": HOSTILE,
        "hyper_parameters": {HOSTILE: HOSTILE},
        "warnings": [HOSTILE],
    }
    runs = [record("pgd"), record(HOSTILE, run_id="hostile", **about)]
    home = driver.current_url
    driver.get(write_page(runs, tmp_path / "report.html", title=HOSTILE).as_uri())
    wait = WebDriverWait(driver, 60)
    wait.until(lambda b: b.execute_script("return document.documentElement.dataset.ready"))
    for button in _find(driver, "#runs button.open"):
        button.send_keys("\ue007")
    wait.until(lambda _: len(_find(driver, "section.run")) == 2)
    assert HOSTILE in _column(driver, "method")
    assert any(HOSTILE in section.text for section in _find(driver, "section.run"))
    assert driver.execute_script("return window.harmed") is None
    assert _find(driver, "img") == []
    driver.get(home)
    wait.until(lambda b: b.execute_script("return document.documentElement.dataset.ready"))


def test_nothing_was_fetched(driver: Any) -> None:
    names = driver.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in names if not name.startswith(("blob:", "data:"))] == []


def test_the_page_of_200_runs_is_small(driver: Any) -> None:
    path = Path(driver.current_url.removeprefix("file://"))
    assert path.stat().st_size < 6 * 2**20
