"""The API put together: its operations, its OpenAPI document, its page, and its addresses."""

from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, re_path
from ninja import NinjaAPI, Schema
from ninja.errors import HttpError, ValidationError
from ninja.openapi.schema import OpenAPISchema
from ninja.parser import Parser

from calls.api import calls, device, door, hooks, pages, problems, tokens, told, users
from calls.api.door import caller, needs
from calls.api.problems import Problem

CODES = (400, 401, 403, 404, 409, 413, 415, 422, 429, 503)
SCHEMES = {"needs": "key", "a_token": "token"}  # as the document calls the classes
PUBLIC = ("openapi-json", "openapi-view")


class JsonOnly(Parser):
    def parse_body(self, request: HttpRequest) -> Any:
        return door.parse(request)


class Api(NinjaAPI):
    def get_openapi_schema(self, *args: Any, **kwargs: Any) -> OpenAPISchema:
        """Ninja's document, with the structs of calls, the errors, and the scope of each operation."""
        document = super().get_openapi_schema(*args, **kwargs)
        structs = [told.CallTold, told.CallPage, told.Story]
        _, schemas = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
        components = document.setdefault("components", {})
        components["schemas"] = {**components.get("schemas", {}), **schemas, "Problem": problems.schema()}
        schemes = components.get("securitySchemes", {})
        components["securitySchemes"] = {SCHEMES[name]: scheme for name, scheme in schemes.items()}
        for address in document["paths"].values():
            for operation in address.values():
                security = operation.get("security", ())
                operation["security"] = [{SCHEMES[name]: [] for name in each} for each in security]
                operation["responses"] = {**operation["responses"], **problems.responses(CODES)}
        return document


api = Api(
    title="Call platform",
    version="1",
    description="Manage people and lines, read and end calls. Every request has `Authorization: Bearer cpk_…`.",
    urls_namespace="api",
    parser=JsonOnly(),
    docs_url="/docs",
    openapi_url="/openapi.json",
)


@api.exception_handler(Exception)
def _fails(request: HttpRequest, error: Exception) -> HttpResponse:
    return door.problem(request, error)


@api.exception_handler(HttpError)
def _refuses(request: HttpRequest, error: HttpError) -> HttpResponse:
    """What Ninja itself refuses: a body that its parser could not read."""
    cause = error.__cause__ or error.__context__
    return door.problem(request, cause if isinstance(cause, Problem) else Problem("bad_frame"))


@api.exception_handler(ValidationError)
def _does_not_validate(request: HttpRequest, error: ValidationError) -> HttpResponse:
    """An address of nobody is told before a body with a mistake in it."""
    try:
        _look_at_address(request)
    except Problem as absent:
        return door.problem(request, absent)
    return door.problem(request, problems.invalid(*((_field(each["loc"]), each["msg"]) for each in error.errors)))


def _look_at_address(request: HttpRequest) -> None:
    asked = request.resolver_match.kwargs if request.resolver_match else {}
    if "webhook_id" in asked:
        hooks.webhook_of(asked["webhook_id"])
    elif "call_id" in asked:
        calls.call_of(asked["call_id"])
    elif "username" in asked and request.method != "PUT":
        calls.person(asked["username"])


def _field(location: Any) -> str:
    """Where a mistake is: `/device/name` in a body, `?limit` in a query."""
    place, *rest = map(str, location)
    if place == "body":
        return "/" + "/".join(rest[1:])  # the first is the name that our own function gives the body
    return f"?{rest[0]}" if place == "query" and rest else (rest or [place])[0]


class Me(Schema):
    name: str
    scopes: list[str]
    expires: Any


@api.get("/me", auth=needs(None), response=Me, tags=["keys"])
def get_me(request: HttpRequest) -> Any:
    """The key that asks: its name, scopes, and when it ends."""
    key = caller(request).key
    assert key is not None
    pages.only(request)
    return {"name": key.name, "scopes": key.scopes, "expires": key.expires_at}


api.add_router("", users.router)
api.add_router("", calls.router)
api.add_router("", tokens.router)
api.add_router("", device.router)
api.add_router("", hooks.router)


def _nowhere(_request: HttpRequest, **_kwargs: Any) -> HttpResponse:
    raise Problem("not_found", "There is nothing at this address.")


def _behind_the_door(pattern: Any) -> URLPattern:
    for_pages = str(pattern.pattern).startswith("device/")
    pattern.callback = door.door(pattern.callback, public=pattern.name in PUBLIC, for_pages=for_pages)
    behind: URLPattern = pattern
    return behind


patterns: list[URLPattern] = [_behind_the_door(each) for each in api.urls[0]]
urls = ([*patterns, re_path("", door.door(_nowhere))], "api", "api")
