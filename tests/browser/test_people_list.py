"""The list of people: who comes and goes, and what is further down."""

import json

from playwright.sync_api import Route, expect


def test_who_comes_and_goes_is_seen_and_the_list_is_not_read_again(alice, sign_in):
    read = []
    alice.page.on("request", lambda request: read.append(request.url) if "/people/" in request.url else None)
    alice.page.evaluate("setInterval(() => dispatchEvent(new Event('focus')), 300)")  # as if looked at again and again
    carol = sign_in("carol")
    status = alice.page.locator("#people [data-key=carol] [data-text=status]")
    expect(status).to_have_text("Online")
    carol.signs_out()
    expect(status).to_have_text("Offline")
    assert not read


def test_a_long_list_goes_on_as_it_is_scrolled(alice):
    def answer(route: Route) -> None:
        first = "after=" not in route.request.url
        numbers = range(100) if first else range(100, 130)
        people = [{"id": f"p{n}", "name": f"Person {n:03}", "online": False} for n in numbers]
        body = json.dumps({"people": people, "next": "further" if first else None})
        route.fulfill(status=200, content_type="application/json", body=body)

    alice.page.route(lambda url: "/people/" in url, answer)
    alice.page.reload()
    rows = alice.page.locator("#people .person")
    expect(rows).to_have_count(100)
    alice.page.mouse.move(400, 400)
    for _ in range(20):
        alice.page.mouse.wheel(0, 2000)
    expect(rows).to_have_count(130)
    expect(rows.last.locator("[data-text=name]")).to_have_text("Person 129")
