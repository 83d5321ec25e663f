"""STUN and TURN servers in the welcome."""

import base64
import hashlib
import hmac
import time

from calls import ice

TURN = {"TURN_URLS": ["turn:turn.example.org"], "TURN_SECRET": "shared", "TURN_TTL_S": 600}


def test_without_servers_the_list_is_empty(settings):
    settings.CALLS = {}
    assert ice.servers("bob") == []


def test_a_turn_credential_is_what_coturn_computes_and_runs_out(settings):
    settings.CALLS = {"STUN_URLS": ["stun:stun.example.org"], **TURN}
    stun, turn = ice.servers("bob")
    assert stun == {"urls": ["stun:stun.example.org"]}
    expiry, _, user = turn["username"].partition(":")
    assert user == "bob"
    assert 590 < int(expiry) - time.time() <= 600
    digest = hmac.new(b"shared", turn["username"].encode(), hashlib.sha1).digest()
    assert turn["credential"] == base64.b64encode(digest).decode()
