"""Take the screenshot of the demo: ``python docs/screenshot.py`` in the checkout.

Needs the extras ``demo`` and ``testing``, and Chromium.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import plaster
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
PNG = ROOT / "docs" / "_static" / "demo.png"


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def take(url: str, path: Path) -> None:
    """Let a checkout fail in a browser, and take a picture of the page."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(
            viewport={"width": 1200, "height": 610}, color_scheme="light"
        )
        page.goto(f"{url}/shop")
        page.get_by_label("Add Desk lamp to the cart").click()
        page.get_by_label("Let the payment fail").check()
        page.get_by_role("button", name="Check out").click()
        page.frame_locator("iframe.panel").locator("#row-data").wait_for()
        page.screenshot(path=path)
        browser.close()


def main() -> None:
    sys.path.insert(0, str(ROOT))
    import demo

    settings = plaster.get_settings(str(ROOT / "demo" / "development.ini"), "app:main")
    del settings["use"]
    with tempfile.TemporaryDirectory() as directory:
        settings["sqlalchemy.url"] = f"sqlite:///{directory}/demo.sqlite"
        application = demo.main({}, **settings)
        with make_server("127.0.0.1", 0, application, handler_class=_Quiet) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            take(f"http://127.0.0.1:{server.server_port}", PNG)
            server.shutdown()


if __name__ == "__main__":
    main()
