"""The page in docs/explorer does in a real browser what it promises."""

import base64
import contextlib
import functools
import gzip
import http.server
import itertools
import json
import os
import re
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_ssl_speech import read_audio
from hf_ssl_speech.data.sources import load_speech

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
ActionChains, Keys = webdriver.ActionChains, webdriver.Keys

PAGE = Path(__file__).parents[1] / "docs" / "explorer"
DATA = json.loads(gzip.decompress((PAGE / "data.json.gz").read_bytes()))
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address():
    handler = functools.partial(Quiet, directory=PAGE)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    missing: str | None = None

    def do_GET(self):
        if self.missing and self.path.endswith(self.missing):
            self.send_error(404)
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def browser():
    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in paths:
        pytest.skip("Chromium and its driver are not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(paths[1]))
    driver.set_script_timeout(240)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, address):
    browser.get(address)
    wait(lambda: browser.execute_script("return Boolean(window.explorer)"))
    return browser


def wait(until, seconds=240):
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "the page did not get there"
        time.sleep(0.2)


def text_of(page, name):
    return page.execute_script("return document.getElementById(arguments[0]).textContent", name)


def move(page, name, value):
    page.execute_script(
        "const input = document.getElementById(arguments[0]); input.value = arguments[1];"
        "input.dispatchEvent(new Event('input', {bubbles: true}));"
        "input.dispatchEvent(new Event('change', {bubbles: true}));",
        name,
        value,
    )


def test_every_control_moves_what_it_should_without_an_error_or_a_request_to_another_host(page, address):
    before = text_of(page, "frame-told")
    move(page, "frame", 50)
    assert text_of(page, "frame-told") != before and text_of(page, "frame-told").startswith("50: samples 16,000")
    assert "makes 49 frames" in text_of(page, "rate")
    page.execute_script(
        "const stride = document.querySelector('#layers input'); stride.value = 10;"
        "stride.dispatchEvent(new Event('input', {bubbles: true}));"
    )
    assert "every 40 ms" in text_of(page, "rate")
    page.find_element("id", "strides").click()
    assert "makes 49 frames" in text_of(page, "rate")

    wait(lambda: page.find_element("id", "share").is_enabled())
    for name, value, told in (("share", 0.1, "accuracy"), ("length", 20, "accuracy")):
        before = text_of(page, told)
        move(page, name, value)
        wait(lambda told=told, before=before: text_of(page, told) != before)
    before = page.execute_script("return document.getElementById('masked').innerHTML")
    page.find_element("id", "redraw").click()
    wait(lambda: page.execute_script("return document.getElementById('masked').innerHTML") != before)

    for size in range(4):
        move(page, "size", size)
        assert "PNMI" in text_of(page, "size-told") and "stands for" in text_of(page, "stands-for")
        assert page.find_elements("css selector", "#occurrences button")
    figures = set()
    for stage in range(3):
        move(page, "stage", stage)
        figures.add(text_of(page, "figures"))
    assert len(figures) == 3
    for name, value, told in (
        ("hidden-frame", 3, "hidden-frame-told"),
        ("hidden-frame", 5, "ranked"),
        ("distractors", 50, "candidates-told"),
    ):
        before = text_of(page, told)
        move(page, name, value)
        assert text_of(page, told) != before
    shares = []
    for distractors in (1, 10, 100):
        move(page, "distractors", distractors)
        shares.append([float(each) for each in re.findall(r"([\d.]+)%", text_of(page, "candidates-told"))])
    assert all(one > other for some, more in itertools.pairwise(shares) for one, other in zip(some, more)), shares
    move(page, "distractors", 10)
    before = page.execute_script("return document.getElementById('candidates').innerHTML")
    page.find_element("id", "redraw-distractors").click()
    assert page.execute_script("return document.getElementById('candidates').innerHTML") != before
    assert page.find_elements("css selector", "#entries rect") and "collapse" in text_of(page, "collapse-told")
    said = set()
    for minutes in range(int(page.find_element("id", "minutes").get_attribute("max")) + 1):
        move(page, "minutes", minutes)
        said.add(text_of(page, "minutes-told"))
        assert text_of(page, "heard")
    assert len(said) == 1 + int(page.find_element("id", "minutes").get_attribute("max"))
    assert page.find_elements("css selector", "#collection circle")
    sources = [link.get_attribute("href") for link in page.find_elements("css selector", "#findings a")]
    assert len(sources) > 4 and all(source.startswith("https://") for source in sources)
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
    asked = page.execute_script("return performance.getEntriesByType('resource').map(({name}) => name)")
    assert asked and all(each.startswith((address, "blob:", "data:")) for each in asked)


def test_the_model_in_the_page_computes_what_pytorch_computes_with_the_weights_of_the_run(page):
    expected = DATA["reference"]
    found = page.execute_async_script(
        "const [places, done] = arguments; (async () => { const {framesOf, unitsOf, samples} = window.explorer;"
        "const frames = await framesOf(samples);"
        "const mask = Array.from({length: frames.dims[1]}, (_, frame) => frame % 3 === 0);"
        "const {logits: {data, dims}} = await unitsOf(frames, mask);"
        "return places.map((frame) => [...data.slice(frame * dims[2], (frame + 1) * dims[2])]); })()"
        ".then(done, (error) => done(`${error}`))",
        expected["frames"],
    )
    assert isinstance(found, list), found
    cosines = expected["temperature"] * np.array(found)
    assert np.abs(cosines - np.array(expected["cosines"])).max() < 1e-4


def test_the_recogniser_in_the_page_computes_what_pytorch_computes_with_its_own_weights(page):
    expected = DATA["reference"]
    logits = page.execute_async_script(
        "const [places, done] = arguments; (async () => { const {framesOf, lettersOf, samples} = window.explorer;"
        "const {data, dims} = await lettersOf(await framesOf(samples));"
        "return places.map((frame) => [...data.slice(frame * dims[2], (frame + 1) * dims[2])]); })()"
        ".then(done, (error) => done(`${error}`))",
        expected["frames"],
    )
    assert isinstance(logits, list), logits
    found = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert np.abs(found - np.array(expected["tokens"])).max() < 1e-4


def test_spoken_digits_are_written_in_the_page(page, tmp_path):
    corpora = os.environ.get("SPEECH_CORPORA")
    if not corpora:
        pytest.skip("SPEECH_CORPORA names no folder with corpora")
    rows = load_speech([f"{corpora}/digits/test*.parquet"]).select(range(0, 300, 30))
    right = 0
    for number, row in enumerate(rows):
        file = tmp_path / f"{number}.wav"
        soundfile.write(file, read_audio(row["audio"]), 16_000)
        page.execute_script("document.getElementById('voice-text').value = ''")
        page.find_element("id", "file").send_keys(str(file))
        wait(lambda: text_of(page, "voice-text"))
        right += text_of(page, "voice-text") == f"Heard: {row['text'].lower()}"
    assert right >= 7  # 6% of the words were wrong when it was made: that 4 of 10 are has a chance of 0.2%


@pytest.mark.parametrize("width", [360, 1400])
def test_the_page_is_as_wide_as_the_window(page, width):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    page.refresh()
    wait(lambda: page.execute_script("return Boolean(window.explorer)"))
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_damaged_audio_file_gets_a_plain_message(page, tmp_path):
    (tmp_path / "damaged.wav").write_bytes(b"RIFF but no audio")
    page.find_element("id", "file").send_keys(str(tmp_path / "damaged.wav"))
    wait(lambda: "damaged" in text_of(page, "problem"))


def test_a_voice_gets_its_units_in_the_page(page):
    page.find_element("id", "file").send_keys(str(PAGE / "audio" / "utterance.wav"))
    wait(lambda: "different units" in text_of(page, "voice-told"))


def test_every_control_has_a_name_and_every_picture_a_description(page):
    unnamed = page.execute_script(
        "return [...document.querySelectorAll('input, select, button')].filter((each) =>"
        " !each.getAttribute('aria-label') && !each.textContent.trim() && !each.labels?.length).map(({id}) => id)"
    )
    assert unnamed == []
    assert page.execute_script("return [...document.querySelectorAll('.plot svg')].every((each) => each.ariaLabel)")


def test_the_model_answers_a_slider_within_150_milliseconds_from_the_first_move_on(page):
    busy, cores = os.getloadavg()[0], os.cpu_count()
    if busy > cores:
        pytest.skip(f"Other work keeps the machine busy: {busy:.0f} processes want its {cores} cores")
    wait(lambda: page.find_element("id", "share").is_enabled())
    answers = []
    for share in (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5):
        before = text_of(page, "accuracy")
        move(page, "share", share)
        wait(lambda before=before: text_of(page, "accuracy") != before)
        answers.append(int(page.find_element("id", "accuracy").get_attribute("data-milliseconds")))
    # One may come while the machine does something else.
    assert sorted(answers)[-2] <= 150, answers


def test_pointing_at_the_waveform_chooses_a_frame(page):
    before = text_of(page, "frame-told")
    waveform = page.find_element("id", "waveform")
    ActionChains(page).move_to_element_with_offset(waveform, 100, 0).perform()
    assert text_of(page, "frame-told") != before


@contextlib.contextmanager
def lacking(browser, name):
    """Pages that are opened now find nothing of this name in the browser."""
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": f"delete globalThis.{name}"})
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_a_browser_without_webassembly_gets_a_plain_message_and_all_that_needs_no_model(browser, address):
    with lacking(browser, "WebAssembly"):
        browser.get(address)
        wait(lambda: "no WebAssembly" in text_of(browser, "problem"))
        assert "PNMI" in text_of(browser, "size-told") and text_of(browser, "figures")


def test_a_refused_microphone_gets_a_plain_message(page):
    page.execute_cdp_cmd("Browser.setPermission", {"permission": {"name": "microphone"}, "setting": "denied"})
    page.find_element("id", "record").click()
    wait(lambda: "microphone" in text_of(page, "problem"))


def test_a_file_that_is_missing_on_the_server_is_named(browser, address, monkeypatch):
    monkeypatch.setattr(Quiet, "missing", "utterance.wav")
    browser.execute_cdp_cmd("Network.clearBrowserCache", {})
    browser.get(address)
    wait(lambda: "audio/utterance.wav cannot be loaded (404)" in text_of(browser, "problem"))
    browser.get_log("browser")


def test_a_browser_that_cannot_unpack_gets_a_plain_message(browser, address):
    with lacking(browser, "DecompressionStream"):
        browser.get(address)
        wait(lambda: "cannot unpack" in text_of(browser, "problem"))


# What is heard: how long each sound is that the page plays.
LISTEN = (
    "window.heard = []; const start = AudioBufferSourceNode.prototype.start;"
    "AudioBufferSourceNode.prototype.start = function (...given) {"
    "window.heard.push(given); return start.apply(this, given); }"
)


def press(page, *keys):
    ActionChains(page).send_keys(*keys).perform()


def focused(page, what):
    return page.execute_script(f"return document.activeElement.{what}")


def test_all_is_reached_and_moved_by_keyboard_and_the_place_is_seen(page):
    wait(lambda: page.find_element("id", "share").is_enabled())
    wanted = set(
        page.execute_script(
            "return [...document.querySelectorAll('a, button, input, select, [tabindex=\"0\"]')]"
            ".filter((each) => !each.disabled && each.checkVisibility())"
            ".map((each, place) => (each.dataset.place = `${place}`))"
        )
    )
    unseen = []
    page.find_element("tag name", "h1").click()
    for _ in range(len(wanted) + 20):
        ActionChains(page).send_keys(Keys.TAB).perform()
        place, name, outline = page.execute_script(
            "const each = document.activeElement, style = getComputedStyle(each);"
            "return [each.dataset.place, each.id || each.textContent, style.outlineStyle + style.outlineWidth]"
        )
        if place is None:  # the end of the page
            break
        wanted.discard(place)
        if outline in ("none0px", "none3px"):
            unseen.append(name)
    assert wanted == set() and unseen == []

    for name, told in (("frame", "frame-told"), ("stage", "stage-told"), ("distractors", "candidates-told")):
        before = text_of(page, told)
        page.find_element("id", name).send_keys(Keys.ARROW_LEFT)
        assert text_of(page, told) != before


def test_units_frames_and_points_are_chosen_and_heard_by_keyboard(page):
    page.execute_script(LISTEN)
    page.execute_script("document.querySelector('#strip [tabindex=\"0\"]').focus()")
    press(page, Keys.HOME)
    first = focused(page, "ariaLabel")
    press(page, Keys.ARROW_RIGHT)
    second = focused(page, "ariaLabel")
    assert first != second and second.startswith("Unit ")
    press(page, Keys.ENTER)
    assert page.find_element("id", "unit").get_attribute("value") == second.split()[1]
    assert focused(page, "ariaLabel") == second, "the focus stays where it was when the picture is drawn again"
    for picture, seconds in (("candidates", 0.12), ("map", DATA["iterations"]["sound"]["seconds"])):
        count = page.execute_script("return window.heard.length")
        page.execute_script(f"document.querySelector('#{picture} [tabindex=\"0\"]').focus()")
        press(page, Keys.END)
        assert focused(page, "ariaLabel").startswith("Hear ")
        press(page, Keys.ENTER)
        wait(lambda count=count: page.execute_script("return window.heard.length") == count + 1)
        assert page.execute_script("return window.heard.at(-1)[2]") == pytest.approx(seconds)


def test_in_print_the_figures_stand_alone(page):
    wait(lambda: page.find_element("id", "share").is_enabled())
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    visible = "return [...document.querySelectorAll(arguments[0])].filter((each) => each.checkVisibility())"
    shown = page.execute_script(f"{visible}.length", "button, nav, input[type=range], input[type=file]")
    pictures = page.execute_script(f"{visible}.map((each) => each.parentNode.id)", ".plot svg")
    paper = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert shown == 0 and paper == "rgb(255, 255, 255)"
    assert {"waveform", "masked", "strip", "candidates", "matrix", "map", "curve", "collection"} <= set(pictures)
    printed = base64.b64decode(page.print_page())
    assert printed.startswith(b"%PDF") and 3 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 12
