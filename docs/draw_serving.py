"""Draws docs/images/serving.png: the page of `keras-mdm serve` in a browser, as a user sees it.

    python docs/draw_serving.py runs/demo

Starts the server with the model, types prompts, clicks, and takes pictures of the page. Needs the
extra `serve`, and selenium with Chromium and its driver (Debian: chromium, chromium-driver).
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

FILE = Path(__file__).parent / "images" / "serving.png"
PROMPTS = ("sunflower", "octopus", "rainbow", "panda", "watermelon", "a red apple")
# Longest wait for a picture, the first of which may be traced.
PATIENCE = 180.0


def browser(width: int, height: int, scale: float = 1.0):
    """A Chromium without a window, that shows a page of so many pixels."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("chromium-browser") or ""
    for word in (
        *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"),
        f"--window-size={width},{height}",
    ):
        options.add_argument(word)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    # The size of what is shown, without the frame of the window.
    sizes = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)
    return driver


def start(model: str, *words: str) -> tuple[subprocess.Popen, str]:
    """Start a server on a free port; returns its process and its address."""
    command = [sys.executable, "-m", "keras_mdm", "serve", model, "--port", "0", *words]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in server.stderr:
        found = re.search(r"serving at (\S+)", line)
        if found:
            return server, found[1]
    raise SystemExit(f"the server ended with status {server.wait()}")


def wait(driver, condition: str, patience: float = PATIENCE) -> None:
    """Wait until a JavaScript expression is true."""
    end = time.monotonic() + patience
    while not driver.execute_script(f"return !!({condition})"):
        if time.monotonic() > end:
            raise SystemExit(f"not within {patience} s: {condition}")
        time.sleep(0.05)


def draw(driver, prompt: str, seed: int) -> None:
    """Type a prompt and a seed, click, and wait for the picture."""
    for name, value in (("prompt", prompt), ("seed", str(seed))):
        field = driver.find_element("id", name)
        field.clear()
        field.send_keys(value)
    driver.find_element("id", "draw").click()
    wait(driver, "document.getElementById('draw').disabled")
    wait(driver, "!document.getElementById('draw').disabled")
    problem = driver.find_element("id", "error").text
    if problem:
        raise SystemExit(problem)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="as for `keras-mdm serve`")
    parser.add_argument("--prompts", nargs="+", default=list(PROMPTS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(1080, 930))
    parser.add_argument("--scale", type=float, default=1.0, help="pixels of the screen per pixel")
    parser.add_argument("--address", help="of a server that runs already")
    parser.add_argument("--out", type=Path, default=FILE)
    args = parser.parse_args()
    server, address = (None, args.address) if args.address else start(args.model)
    driver = browser(*args.size, args.scale)
    try:
        driver.get(address)
        wait(driver, "document.getElementById('steps').value")
        for prompt in args.prompts:
            draw(driver, prompt, args.seed)
        driver.find_element("id", "seed").clear()
        driver.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
        time.sleep(0.3)  # transitions
        args.out.parent.mkdir(parents=True, exist_ok=True)
        driver.save_screenshot(str(args.out))
        print(args.out)
    finally:
        driver.quit()
        if server:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
