"""The page in a real browser: type, click, and the picture appears."""

import base64
import contextlib
import io
import json
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from serving.fakes import PATIENCE, FakePainter, serving

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")
pytest.importorskip("selenium")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("needs Chromium and its driver", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402


class Painter(FakePainter):
    """Takes start pictures too, and remembers what was asked for."""

    def __init__(self):
        super().__init__(held=True)
        self.orders = []

    def order(self, wish):
        self.orders.append(wish)
        return super().order(wish)

    def described(self):
        found = super().described()
        found["fields"] += ["negative_prompt", "sampler", "level", "guidance_scale"]
        found["fields"] += ["init_image", "strength", "mask"]
        found["defaults"] |= {"guidance_scale": 3.0, "strength": 0.7}
        return found


class Exported(Painter):
    """Says of itself what an exported model does: no sampler can be chosen."""

    def described(self):
        found = super().described()
        found["fields"] = ["prompt", "negative_prompt", "steps", "guidance_scale", "seed", "level"]
        found["samplers"] = []
        del found["defaults"]["sampler"]
        return found


class Page:
    """The page, and what a user does on it."""

    def __init__(self, driver, painter, queue):
        self.driver, self.painter, self.queue = driver, painter, queue

    def find(self, name):
        return self.driver.find_element("id", name)

    def type(self, name, text):
        self.find(name).clear()
        self.find(name).send_keys(text)

    def until(self, expression):
        end = time.monotonic() + PATIENCE
        while not (found := self.driver.execute_script(f"return {expression}")):
            assert time.monotonic() < end, expression
            time.sleep(0.02)
        return found

    def idle(self):
        self.until("!document.getElementById('draw').disabled")

    def shown(self):
        source = self.find("picture").get_attribute("src")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(word)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@contextlib.contextmanager
def opened(browser, painter):
    """The page of a server."""
    with serving(painter) as (queue, address):
        browser.get(address)
        page = Page(browser, painter, queue)
        page.until("document.getElementById('steps').value")
        yield page
        browser.get("about:blank")


@pytest.fixture
def page(browser):
    with opened(browser, Painter()) as page:
        yield page


def test_type_click_preview_picture_history_download(page):
    page.type("prompt", "a red apple")
    page.type("seed", "77")
    page.find("draw").click()
    page.painter.go.release()  # one step
    page.until("document.getElementById('status').textContent == 'Step 1 of 4.'")
    assert page.shown().shape == (4, 4, 3)  # the low level first
    page.painter.go.release(3)
    page.idle()
    assert page.shown().shape == (8, 8, 3) and np.all(page.shown() == 77)
    assert page.find("status").text.startswith("a red apple: drawn in ")
    assert page.find("download").get_attribute("download") == "a-red-apple-77_8.png"
    file = base64.b64decode(page.find("download").get_attribute("href").partition(",")[2])
    assert json.loads(Image.open(io.BytesIO(file)).text["keras-mdm"])["seed"] == 77

    page.type("prompt", "panda")  # Enter draws as well; an empty seed is a random one
    page.find("seed").clear()
    page.painter.go.release(4)
    page.find("prompt").send_keys(Keys.ENTER)
    page.idle()
    assert page.painter.orders[-1].prompt == "panda" and page.painter.orders[-1].seed is None
    entries = page.driver.find_elements("css selector", "#history button")
    assert [entry.text for entry in entries] == ["panda", "a red apple"]
    entries[1].click()
    assert np.all(page.shown() == 77)
    page.find("again").click()
    assert page.find("seed").get_attribute("value") == "77"
    page.find("levels").find_elements("tag name", "button")[0].click()
    assert page.shown().shape == (4, 4, 3)

    page.driver.refresh()  # the history stays
    page.until("document.querySelectorAll('#history button').length == 2")
    page.find("forget").click()
    assert not page.find("past").is_displayed()


def test_a_model_without_samplers_draws(browser):
    with opened(browser, Exported()) as page:
        page.type("prompt", "panda")
        page.painter.go.release(4)
        page.find("draw").click()
        page.idle()
        assert page.find("error").text == ""
        assert page.shown().shape == (8, 8, 3)
        (wish,) = page.painter.orders
        assert wish.prompt == "panda" and wish.sampler is None


def test_cancel_and_leaving_free_the_place(page):
    page.find("draw").click()
    assert page.painter.drawing.wait(PATIENCE)
    page.until("!document.getElementById('cancel').hidden")
    page.find("cancel").click()
    page.until("document.getElementById('status').textContent == 'Cancelled.'")
    page.painter.go.release()
    page.idle()
    page.painter.drawing.clear()
    page.find("draw").click()
    assert page.painter.drawing.wait(PATIENCE)
    page.driver.get("about:blank")
    end = time.monotonic() + PATIENCE
    while page.queue.counts()["drawing"]:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_errors_are_said_in_words(page):
    page.driver.execute_script("document.getElementById('form').noValidate = true")
    page.type("steps", "0")
    page.find("draw").click()
    page.until("document.getElementById('error').textContent")
    assert page.find("error").text.startswith("`steps` must be an integer of at least 1")
    page.queue.close()
    page.type("steps", "2")
    page.find("draw").click()
    page.until("document.getElementById('error').textContent.startsWith('The server is stopping')")


def test_settings_and_a_mask_that_is_painted_arrive(page, tmp_path):
    picture = np.zeros((8, 8, 3), "uint8")
    picture[:, :4] = (200, 100, 0)
    Image.fromarray(picture).save(tmp_path / "start.png")
    page.driver.execute_script(
        "for (const each of document.querySelectorAll('details')) each.open = true"
    )
    page.type("negative", "blue")
    page.type("scale-8", "5.5")
    page.find("file").send_keys(str(tmp_path / "start.png"))
    page.until("!document.getElementById('editor').hidden")
    page.painter.go.release(8)
    page.find("draw").click()
    page.idle()
    wish = page.painter.orders[-1]
    assert (wish.negative_prompt, wish.steps, wish.level) == ("blue", 4, "8")
    assert wish.guidance_scale == {"4": 3.0, "8": 5.5}
    assert (wish.strength, wish.mask) == (0.7, None)
    np.testing.assert_array_equal(wish.init_image, picture)

    page.driver.execute_script("document.getElementById('brush').value = 40")
    page.find("mask").send_keys(*[Keys.ARROW_LEFT] * 20, " ")  # the middle of the left edge
    page.find("draw").click()
    page.idle()
    wish = page.painter.orders[-1]
    assert wish.strength is None and wish.mask.shape == (8, 8)
    assert wish.mask[3:5, 0].all() and not wish.mask[:, 3:].any() and not wish.mask[0].any()
    page.find("remove").click()
    assert not page.find("editor").is_displayed()


def test_all_can_be_reached_by_keyboard_and_nothing_overflows_a_phone(page):
    sizes = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)
    try:
        width = page.driver.execute_script("return document.documentElement.scrollWidth")
        assert width <= 360
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    reached = []
    for _ in range(8):
        active = page.driver.switch_to.active_element
        reached.append(active.get_attribute("id") or active.tag_name)
        active.send_keys(Keys.TAB)
    expected = ["prompt", "negative", "steps", "guidance", "seed", "summary", "summary", "draw"]
    assert reached == expected
    named = "[...document.querySelectorAll('input, select, textarea')]"
    assert page.driver.execute_script(f"return {named}.every((each) => each.labels.length === 1)")


def test_the_page_asks_for_the_token(browser):
    with serving(Painter(), token="secret") as (_, address):
        browser.get(address)
        page = Page(browser, None, None)
        page.until("document.getElementById('ask').open")
        page.type("token", "wrong" + Keys.ENTER)
        time.sleep(0.2)
        page.until("document.getElementById('ask').open")
        page.type("token", "secret" + Keys.ENTER)
        page.until("document.getElementById('steps').value")
        assert not browser.execute_script("return document.getElementById('ask').open")
        browser.get("about:blank")
