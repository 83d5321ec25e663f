"""The page of the HTTP API in a real browser: it runs under the site's strict policy, and asks nobody else."""

from playwright.sync_api import Browser, expect

from tests.browser.served import Site


def test_the_page_of_the_api_shows_it_and_asks_no_other_server(site: Site, chromium: Browser):
    context = chromium.new_context()
    page = context.new_page()
    faults: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{site.url}/api/v1/docs")
    operation = page.get_by_text("/api/v1/calls/{call_id}/end").first
    expect(operation).to_be_visible()
    operation.click()
    expect(page.get_by_text("Ends the call for everybody in it").first).to_be_visible()
    assert all(url.startswith((site.url, "data:")) for url in asked), asked
    assert not faults, faults
    context.close()
