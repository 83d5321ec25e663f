"""A key of the HTTP API in tests, and requests with it."""

import json

from django.test import Client

from calls.api import keys


class Api:
    """Asks as somebody else's server: `Api("calls:read").get("/calls")`."""

    def __init__(self, *scopes, name="crm", **made):
        self.key, self.shown = keys.make(name, scopes, **made)

    def ask(self, method, path, body=None, **headers):
        said = {} if body is None else {"data": json.dumps(body), "content_type": "application/json"}
        headers = {
            "Authorization": f"Bearer {self.shown}",
            **{name.replace("_", "-"): v for name, v in headers.items()},
        }
        return Client().generic(method, f"/api/v1{path}", headers=headers, **said)

    def get(self, path, **headers):
        return self.ask("GET", path, **headers)

    def post(self, path, body=None, **headers):
        return self.ask("POST", path, body, **headers)

    def put(self, path, body=None):
        return self.ask("PUT", path, body)

    def patch(self, path, body=None):
        return self.ask("PATCH", path, body)

    def delete(self, path):
        return self.ask("DELETE", path)


def code(response):
    """The status and the code of a problem."""
    assert response["Content-Type"] == "application/problem+json", response.content
    problem = response.json()
    assert problem["status"] == response.status_code and problem["request_id"] == response["Request-Id"]
    return response.status_code, problem["code"]
