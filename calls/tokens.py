"""Tokens: with one, an app or page of somebody else is a device of one user, for at most a day.

A token is a JWT: ours (HS256, a secret of its own), or one of the issuer that the site trusts (JWT_ISSUER). Behind each
is a session in the database, so a token ends with whatever ends sign-ins: it is revoked, its device is signed out, the
account is deactivated, the password is changed. The stored key of that session is no hash of anything that a cookie
could say, so a token opens no page.
"""

import datetime as dt
import hashlib
import hmac
import math
import threading
import time
import uuid
from collections.abc import Collection
from functools import cache
from typing import Any, NamedTuple

import jwt
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.core.exceptions import ValidationError
from django.db import IntegrityError
from django.utils.crypto import salted_hmac

from calls import conf, switchboard
from calls.models import Token
from devices import presence, sessions, times
from devices.models import Device

ISSUER, AUDIENCE, ALGORITHM = "callplatform", "calls", "HS256"
PUBLIC_ALGORITHMS = ["RS256", "ES256", "EdDSA"]
LEEWAY_S = 5
ASK_S = 10.0  # between two questions for the keys of the other issuer
DEFAULT_S, MOST_S = 3600, 86_400
GRACE_S = 60  # for a device in a call, to renew a token that has ended
KEPT_S = GRACE_S + 30  # for which the session outlives the token
FORGET_AT_ONCE = 500


class Ended(Exception):
    """The token was right, and its time is over."""


class Wrong(Exception):
    """It is no token of this site."""


class Claims(NamedTuple):
    """What a token says, as far as its signature proves it."""

    jti: uuid.UUID
    user: str
    ends: dt.datetime
    origins: tuple[str, ...]

    @property
    def session(self) -> str:
        return stored_key(self.jti)


def mint(
    user: Any, key: Any, ttl_s: int = DEFAULT_S, device: tuple[str, str] | None = None, origins: Collection[str] = ()
) -> tuple[str, Token]:
    """A new token for this user, and its row. With the name and kind of a device, that is made too; raises TooMany of
    devices/presence.py when there are too many."""
    now = times.now()
    token = Token(user=user, key=key, origins=list(origins), made_at=now, expires_at=now + dt.timedelta(seconds=ttl_s))
    token.session = stored_key(token.pk)
    _make_session(user, token)
    if device is not None:
        try:
            # It has no page yet, and nobody holds it when this is over.
            hello = presence.Hello(token.session, None, *device, uuid.uuid4(), socket := uuid.uuid4(), False)
            arrival = presence.arrive(str(user.pk), hello, 0)
        except BaseException:
            sessions.end(token.session)
            raise
        if arrival.crowded_out is not None:
            switchboard.crowd_out(arrival.crowded_out)
        token.device = arrival.device
        presence.leave(arrival.device.pk, socket)
    token.save(force_insert=True)
    said = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": user.get_username(),
        "jti": str(token.pk),
        "iat": int(now.timestamp()),
        "exp": int(token.expires_at.timestamp()),
        "org": token.origins,
    }
    if token.device is not None:
        said["dev"] = {"id": str(token.device.pk), "name": token.device.name, "kind": token.device.kind}
    secret = _secret()
    return jwt.encode(said, secret, ALGORITHM, headers={"kid": _kid(secret)}), token


def _make_session(user: Any, token: Token) -> None:
    said = {
        SESSION_KEY: str(user.pk),
        BACKEND_SESSION_KEY: settings.AUTHENTICATION_BACKENDS[-1],
        HASH_SESSION_KEY: user.get_session_auth_hash(),
    }
    store = sessions.SessionStore()
    expires = token.expires_at + dt.timedelta(seconds=KEPT_S)
    rows = store.get_model_class().objects
    rows.create(session_key=token.session, session_data=store.encode(said), expire_date=expires)


def read(text: str) -> Claims:
    """What a token says. Raises Ended or Wrong. Asks no database: whether the token was revoked is found out when its
    session is looked at."""
    secret = _secret()
    try:
        said = jwt.decode(
            text,
            secret,
            algorithms=[ALGORITHM],
            audience=AUDIENCE,
            issuer=ISSUER,
            leeway=LEEWAY_S,
            options={"require": ["exp", "sub", "jti", "iss", "aud"]},
        )
        ends = dt.datetime.fromtimestamp(said["exp"], dt.UTC)
        return Claims(uuid.UUID(said["jti"]), said["sub"], ends, tuple(said.get("org") or ()))
    except jwt.ExpiredSignatureError:
        raise Ended from None
    except (jwt.InvalidTokenError, ValueError, TypeError, AttributeError, OverflowError):
        raise Wrong from None


def admitted(text: str) -> Claims:
    """What a token says, of whichever issuer. May ask the database, and the issuer's keys. Raises Ended or Wrong."""
    if conf.get("JWT_ISSUER") and _issuer(text) == conf.get("JWT_ISSUER"):
        return _foreign(text)
    return read(text)


def _issuer(text: str) -> Any:
    """Who the token says has made it; nothing is proved by that."""
    try:
        return jwt.decode(text, options={"verify_signature": False}).get("iss")
    except jwt.InvalidTokenError:
        return None


def _foreign(text: str) -> Claims:
    """A JWT of the other issuer. When it is first seen it gets a row and a session, and its person, if the site makes
    people so. Its id is made of its text, so that a revoked one is not taken for a new one."""
    now = times.now()
    try:
        key: Any = conf.get("JWT_SECRET") or published(conf.get("JWT_JWKS_URL")).get_signing_key_from_jwt(text).key
        said = jwt.decode(
            text,
            key,
            algorithms=["HS256"] if conf.get("JWT_SECRET") else PUBLIC_ALGORITHMS,
            audience=conf.get("JWT_AUDIENCE"),
            issuer=conf.get("JWT_ISSUER"),
            leeway=LEEWAY_S,
            options={"require": ["exp", "iss", "aud"]},
        )
        ends = dt.datetime.fromtimestamp(said["exp"], dt.UTC)
    except jwt.ExpiredSignatureError:
        raise Ended from None
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
        raise Wrong from None
    name, origins = said.get(conf.get("JWT_CLAIM")), said.get("org") or []
    listed = isinstance(origins, list) and all(isinstance(origin, str) for origin in origins)
    if not isinstance(name, str) or not listed or ends > now + dt.timedelta(seconds=MOST_S + LEEWAY_S):
        raise Wrong
    signed = text.rpartition(".")[0]  # a signature may have more than one form
    id = uuid.UUID(bytes=hashlib.sha256(signed.encode()).digest()[:16])
    claims = Claims(id, name, ends, tuple(origin.lower() for origin in origins))
    if not Token.objects.filter(pk=id).exists():
        _admit(claims, _person(name), now)
    return claims


def _person(name: str) -> Any:
    """The person of this user name. Raises Wrong when there is none, none that may sign in so, or none is made."""
    users = get_user_model()
    user = None if "\0" in name else users._default_manager.filter(username=name).first()
    if user is None and conf.get("JWT_CREATE"):
        user = users(username=name)
        user.set_unusable_password()
        try:
            user.clean_fields(exclude={field.name for field in user._meta.fields} - {"username"})
            user.save(force_insert=True)
        except ValidationError:
            raise Wrong from None
        except IntegrityError:  # made at this moment
            user = users._default_manager.get(username=name)
    if user is None or not user.is_active or user.is_staff or user.is_superuser:
        raise Wrong
    return user


def _admit(claims: Claims, user: Any, now: dt.datetime) -> None:
    issuer, ends = conf.get("JWT_ISSUER"), claims.ends
    token = Token(pk=claims.jti, user=user, issuer=issuer, origins=list(claims.origins), made_at=now, expires_at=ends)
    token.session = stored_key(token.pk)
    try:
        token.save(force_insert=True)
    except IntegrityError:  # said on another socket at this moment
        return
    _make_session(user, token)


class Published(jwt.PyJWKClient):
    """The issuer's keys, asked for when one is not known and when they are five minutes old, but at most once in ASK_S
    seconds, also while nobody answers: a question holds a thread, and anybody can name a key that there is not."""

    def __init__(self, url: str) -> None:
        super().__init__(url, lifespan=300, timeout=3)
        self.lock, self.asked = threading.Lock(), -math.inf

    def fetch_data(self) -> Any:
        with self.lock:
            now, before = time.monotonic(), self.asked
            if now - before < ASK_S:
                raise jwt.PyJWKClientError("the issuer was asked for its keys a moment ago")
            self.asked = now
        return super().fetch_data()


published = cache(Published)


def device_of(claims: Claims) -> uuid.UUID | None:
    """The device that the token stays with, if it has one yet. Raises Wrong when the token was revoked."""
    found = Token.objects.filter(pk=claims.jti).values_list("device", flat=True)
    try:
        return found.get()
    except Token.DoesNotExist:
        raise Wrong from None


def bind(claims: Claims, device: uuid.UUID) -> bool:
    """The token stays with this device from now on; False when it stays with another one."""
    mine = Token.objects.filter(pk=claims.jti)
    return mine.filter(device=None).update(device=device) == 1 or mine.filter(device=device).exists()


def renew(claims: Claims, user: str, device: uuid.UUID, session: str) -> bool:
    """The device, which has this session, goes on with another token of the same user; whether it may. The older token
    has ended with that."""
    if sessions.user_of(claims.session) != user or not bind(claims, device):
        return False
    if session != claims.session:
        Device.objects.filter(pk=device, session=session, signed_out_at=None).update(session=claims.session)
        Token.objects.filter(session=session, issuer="").delete()
        sessions.end(session)
    return True


def revoke(token: Token) -> None:
    """Ends the token at once, and signs its device out, whose socket is closed."""
    user, session = token.user_id, token.session
    if not token.issuer:  # somebody else's is remembered, until it has ended, as one that has no session any more
        token.delete()
    switchboard.end_sign_in(user, session)


def revoke_all(user: Any) -> int:
    """Revokes every token of this user; returns how many there were."""
    found = list(Token.objects.filter(user=user))
    for token in found:
        revoke(token)
    return len(found)


def forget() -> bool:
    """Deletes tokens that have ended; whether there may be more of them. Their sessions have run out."""
    old = Token.objects.filter(expires_at__lt=times.now() - dt.timedelta(seconds=KEPT_S)).order_by("expires_at")
    ids = list(old.values_list("pk", flat=True)[:FORGET_AT_ONCE])
    Token.objects.filter(pk__in=ids).delete()
    return len(ids) == FORGET_AT_ONCE


def page_of(device: uuid.UUID) -> uuid.UUID:
    """The page from which a device without a socket gives commands over HTTP. Its next socket takes its legs."""
    return uuid.uuid5(device, "http")


def stored_key(jti: uuid.UUID) -> str:
    return hmac.new(_secret().encode(), jti.bytes, hashlib.sha256).hexdigest()[: sessions.LENGTH]


def _secret() -> str:
    return conf.get("TOKEN_SECRET") or salted_hmac("calls.tokens", "", algorithm="sha256").hexdigest()


def _kid(secret: str) -> str:
    return hashlib.sha256(b"kid\n" + secret.encode()).hexdigest()[:8]
