"""A browser, and the page in it."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")  # while a browser is open, no other test of the process can have an event loop
def browser() -> Iterator:
    from visiting import CHROMIUM, FLAGS, playwright

    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM} (Debian: apt install chromium)")
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS.split())


@pytest.fixture
def settings() -> dict:
    """Of the browser window; parametrised by tests that want another one."""
    return {}


@pytest.fixture
def visit(browser, server, settings) -> Iterator:
    """The page, opened. At the end: nothing was loaded from elsewhere, and nothing unexpected went wrong."""
    from visiting import Visit, expect

    with browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **settings}) as context:
        page = context.new_page()
        visit = Visit(page)

        def went(request) -> None:
            if not request.url.startswith((f"{server.url}/", f"blob:{server.url}/", "data:")):
                visit.elsewhere.append(request.url)

        page.set_default_timeout(60_000)
        page.on("console", visit.hear)
        page.on("pageerror", lambda error: visit.errors.append(str(error)))
        page.on("request", went)
        page.goto(server.url)
        expect(page.locator("#model")).to_have_text("mossvl-tiny")
        yield visit
        assert visit.elsewhere == []
        assert visit.errors == []


@pytest.fixture
def page(visit):
    return visit.page
