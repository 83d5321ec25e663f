"""Whose turn it is: a client that asks for everything waits behind itself."""

import asyncio
from contextlib import suppress

import pytest

from callplatform.lanes import Client, Lane, Lanes

MALLORY, ALICE = Client("192.0.2.1", "m"), Client("192.0.2.2", "a")


async def turns() -> None:
    """Lets everything that can go on go on."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_one_client_has_at_most_half_and_one_address_three_quarters():
    lane = Lane(8, wait_s=60, queue=256)
    greedy = [asyncio.create_task(lane.enter(MALLORY)) for _ in range(20)]
    others = [asyncio.create_task(lane.enter(Client("192.0.2.1", str(n)))) for n in range(20)]
    await turns()
    assert sum(task.done() for task in greedy) == 4
    assert sum(task.done() for task in others) == 2
    assert await asyncio.wait_for(lane.enter(ALICE), 1), "there is room for another address"
    for task in (*greedy, *others):
        task.cancel()


async def test_clients_take_turns_however_much_one_of_them_has_asked():
    lane = Lane(2, wait_s=60, queue=256)
    order: list[str] = []

    async def ask(client: Client, name: str) -> None:
        assert await lane.enter(client)
        order.append(name)
        await turns()
        lane.leave(client)

    greedy = [asyncio.create_task(ask(MALLORY, "m")) for _ in range(20)]
    await turns()
    late = asyncio.create_task(ask(ALICE, "a"))
    await asyncio.gather(late, *greedy)
    assert order.index("a") <= 3
    assert (lane.inside, lane.waiting, lane.queued) == ({}, {}, {})


async def test_who_waits_too_long_or_comes_to_a_full_queue_is_refused_and_leaves_nothing_behind():
    lane = Lane(1, wait_s=1, queue=16)
    assert await lane.enter(MALLORY)
    waiting = [asyncio.create_task(lane.enter(MALLORY)) for _ in range(5)]
    await turns()
    assert [task.done() for task in waiting] == [False, False, True, True, True], (
        "an eighth of the queue is one client's"
    )
    assert [await task for task in waiting] == [False] * 5
    other = [asyncio.create_task(lane.enter(Client("192.0.2.1", str(n)))) for n in range(9)]
    await turns()
    assert [task.done() for task in other] == [False] * 8 + [True], "half of it is one address's"
    assert not any(await asyncio.gather(*other))
    lane.leave(MALLORY)
    assert await lane.enter(ALICE)
    lane.leave(ALICE)
    assert (lane.inside, lane.waiting, lane.queued) == ({}, {}, {})


async def test_who_is_cancelled_while_a_place_is_given_gives_it_on():
    lane = Lane(1, wait_s=60, queue=16)
    assert await lane.enter(MALLORY)
    first, second = asyncio.create_task(lane.enter(ALICE)), asyncio.create_task(lane.enter(MALLORY))
    await turns()
    lane.leave(MALLORY)  # the first has the place now, and has not noticed
    first.cancel()
    with suppress(asyncio.CancelledError):
        await first
    assert await asyncio.wait_for(second, 1)
    lane.leave(MALLORY)
    assert (lane.inside, lane.waiting, lane.queued) == ({}, {}, {})


@pytest.mark.parametrize("whole", [True, False])
async def test_a_slow_reader_holds_no_place_unless_its_answer_is_made_while_it_reads(whole):
    lane, read, said = Lane(1, wait_s=60, queue=16), asyncio.Event(), []

    async def application(scope, receive, send):
        headers = [(b"Content-Length", b"2")] if whole else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b"})

    async def slow(message):
        await read.wait()
        said.append(message.get("body"))

    lanes = Lanes(application, lambda scope: lane, lambda scope: MALLORY, lambda scope: ("text/plain", b"busy"))
    reading = asyncio.create_task(lanes({}, None, slow))
    await turns()
    assert (not lane.inside) is whole
    read.set()
    await reading
    assert said == [None, b"a", b"b"]
    assert not lane.inside


async def test_a_place_is_free_again_when_the_application_fails_and_a_refusal_says_when_to_come_back():
    lane, said = Lane(1, wait_s=0.01, queue=8), []

    async def application(scope, receive, send):
        raise RuntimeError

    async def hear(message):
        said.append(message)

    lanes = Lanes(application, lambda scope: lane, lambda scope: MALLORY, lambda scope: ("text/plain", b"busy"))
    with pytest.raises(RuntimeError):
        await lanes({}, None, hear)
    assert await lane.enter(MALLORY)
    await lanes({}, None, hear)
    assert said[0]["status"] == 503
    assert (b"retry-after", b"2") in said[0]["headers"]
    assert said[1]["body"] == b"busy"
