"""A Chromium without a network: a page that asks for anything but itself fails its test."""

from __future__ import annotations

import os
import shutil

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = "/usr/bin/chromium"


@pytest.fixture(scope="session")
def chromium():
    if shutil.which(CHROMIUM) is None:
        pytest.skip(f"{CHROMIUM} is not installed; tools/install_system test")
    with sync_api.sync_playwright() as playwright:
        # Its sandbox needs a user other than root.
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium, tmp_path):
    """`open_page(html, **context)`: the page as a file, its requests, errors and dialogs recorded and judged."""
    contexts, asked, wrong = [], [], []

    def open_(html, **context):
        (tmp_path / "page.html").write_text(html, encoding="utf-8")
        contexts.append(chromium.new_context(**context))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(f"file://{tmp_path}/page.html")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert [url for url in asked if not url.startswith("file://")] == []
    assert wrong == []
