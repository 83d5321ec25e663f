"""The API on a real server: the examples of docs/http-api.md, word by word, and the page of the OpenAPI document."""

import asyncio
import os
import re
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest
from asgiref.sync import sync_to_async

from calls import tokens
from calls.api import keys
from tests.race_kit import Handset
from tests.servers import get

pytestmark = pytest.mark.django_db(transaction=True)
DOCUMENT = (Path(__file__).resolve().parent.parent / "docs/http-api.md").read_text()
EXAMPLES = [line for block in re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL) for line in block.splitlines()]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples are for curl")
async def test_every_example_of_the_document_does_what_it_says(servers, people):
    for server in servers:
        server.start()
    site = servers[0].url.replace("ws", "http", 1)

    def prepare():
        alice = Handset(people["alice"], "Laptop")
        Handset(people["bob"], "Phone")
        call = uuid.uuid4()
        assert alice.invites(people["bob"], call=call).do().refused is None
        key = keys.make("docs", keys.SCOPES)
        token = tokens.mint(people["bob"], key[0], device=("Phone", "ios"))[0]
        return os.environ | {"KEY": key[1], "SITE": site, "CALL": str(call), "TOKEN": token}

    environment = await sync_to_async(prepare)()
    asked = [line for line in EXAMPLES if line.startswith("curl ")]
    assert len(asked) > 10
    for example in asked:
        command = ["sh", "-c", f"{example} -w '\n%{{http_code}}'"]
        done = await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, timeout=60
        )
        status = int(done.stdout.rsplit("\n", 1)[1])
        expected = (422,) if "-1}" in example else (200, 201)
        assert status in expected, (example, done.stdout)


async def test_the_page_of_the_document_runs_under_the_strict_policy(servers, people):
    servers[0].start()
    status, page = await get(servers[0], "/api/v1/docs")
    assert status == 200
    assert not re.findall(r"<script(?![^>]*(?:src=|application/json))|<style| style=| on\w+=", page)
    files = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert files and all(file.startswith("/static/") for file in files), "nobody else's server is asked"
    for file in files:
        if file.endswith((".js", ".css")):
            assert (await get(servers[0], file))[0] == 200
