"""A sign-in provider, as OpenID Connect Core 1.0 has it: code flow with PKCE (RFC 7636), state and nonce; authlib.

Imported only when somebody signs in this way.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.httpx_client import OAuth2Client
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from fust.core.errors import InvalidInput, UpstreamFailed
from fust.core.settings import OidcSettings

log = logging.getLogger(__name__)

# Public-key signatures only: with `none` or a shared secret anybody could sign.
_ALGORITHMS = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
)
_TIMEOUT_S = 10.0
_KEEP_S = 3600.0
_LEEWAY_S = 60
_MAX_BYTES = 1_000_000
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class BadToken(Exception):
    """What the provider's answer holds is not what this sign-in asked for; the log has the reason."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a browser takes to the provider, and what has to come back with it."""

    state: str
    nonce: str
    verifier: str


class Provider:
    """One provider; its documents are kept for an hour."""

    def __init__(self, settings: OidcSettings, secret: str, redirect_uri: str) -> None:
        self._settings = settings
        self._secret = secret
        self._redirect_uri = redirect_uri
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, dict[str, Any]]] = {}
        check_address(settings.issuer)

    def authorization_url(self, attempt: Attempt) -> str:
        """Returns where to send the browser.

        Raises:
            UpstreamFailed: the provider does not answer, or not as one.

        """
        with self._client() as client:
            url, _ = client.create_authorization_url(
                self._endpoint("authorization_endpoint"),
                state=attempt.state,
                nonce=attempt.nonce,
                code_verifier=attempt.verifier,
            )
        return str(url)

    def redeem(self, code: str, attempt: Attempt) -> dict[str, Any]:
        """Returns the claims about who signed in, for the code that came back.

        Raises:
            BadToken: the code was used, or the token is forged, of another client, or of another sign-in.
            UpstreamFailed: the provider does not answer, or not as one.

        """
        try:
            with self._client() as client:
                token = client.fetch_token(
                    self._endpoint("token_endpoint"),
                    grant_type="authorization_code",
                    code=code,
                    code_verifier=attempt.verifier,
                )
                claims = self._verified(token, attempt.nonce)
                return {**self._user_info(client, claims["sub"]), **claims}
        except (AuthlibBaseError, JoseError) as error:
            raise BadToken(f"{type(error).__name__}: {error}") from error
        except (httpx2.HTTPError, ValueError, TypeError, KeyError) as error:
            raise _not_a_provider(self._settings.issuer, error) from error

    def _client(self) -> Any:
        untyped: Any = OAuth2Client
        return untyped(
            self._settings.client_id,
            self._secret or None,
            scope=" ".join(self._settings.scopes),
            redirect_uri=self._redirect_uri,
            code_challenge_method="S256",
            timeout=_TIMEOUT_S,
            follow_redirects=False,
            trust_env=False,
        )

    def _verified(self, token: dict[str, Any], nonce: str) -> dict[str, Any]:
        raw = token.get("id_token")
        if not isinstance(raw, str):
            raise BadToken("the answer holds no id_token")
        offered = cast(
            "list[str]", self._metadata().get("id_token_signing_alg_values_supported") or ["RS256"]
        )
        registry = JWSRegistry(
            algorithms=[name for name in _ALGORITHMS if name in offered], strict_check_header=False
        )
        try:
            decoded = jwt.decode(raw, self._keys(), registry=registry)
        except (InvalidKeyIdError, ValueError):  # the provider may have changed its keys
            decoded = jwt.decode(raw, self._keys(fresh=True), registry=registry)
        claims: Any = CodeIDToken(
            decoded.claims,
            decoded.header,
            options={
                "iss": {"essential": True, "value": self._settings.issuer},
                "aud": {"essential": True, "value": self._settings.client_id},
            },
            params={
                "nonce": nonce,
                "client_id": self._settings.client_id,
                "access_token": token.get("access_token"),
            },
        )
        claims.validate(leeway=_LEEWAY_S)
        if not isinstance(claims["sub"], str) or not 0 < len(claims["sub"]) <= 255:
            raise BadToken("the subject is not a name")
        return dict(claims)

    def _user_info(self, client: Any, subject: str) -> dict[str, Any]:
        """Returns what the provider tells beside the token (OIDC Core, 5.3); nothing when it offers no such place."""
        url = self._metadata().get("userinfo_endpoint")
        if not isinstance(url, str):
            return {}
        answer = client.get(url)
        if answer.status_code != 200 or "json" not in answer.headers.get("content-type", ""):
            log.info("the provider tells nothing of its users", extra={"status": answer.status_code})
            return {}
        told = answer.json()
        if not isinstance(told, dict) or cast("dict[str, Any]", told).get("sub") != subject:
            raise BadToken("userinfo is about somebody else")  # OIDC Core, 5.3.2
        return cast("dict[str, Any]", told)

    # The provider's documents

    def _endpoint(self, name: str) -> str:
        value = self._metadata().get(name)
        if not isinstance(value, str):
            raise _not_a_provider(self._settings.issuer, f"it has no {name}")
        return check_address(value)

    def _metadata(self) -> dict[str, Any]:
        issuer = self._settings.issuer
        found = self._document(issuer.rstrip("/") + "/.well-known/openid-configuration")
        if found.get("issuer") != issuer:  # OIDC Discovery, 4.3
            raise _not_a_provider(issuer, f"it calls itself {str(found.get('issuer'))[:200]!r}")
        return found

    def _keys(self, *, fresh: bool = False) -> KeySet:
        url = self._endpoint("jwks_uri")
        return KeySet.import_key_set(cast("Any", self._document(url, fresh=fresh)))

    def _document(self, url: str, *, fresh: bool = False) -> dict[str, Any]:
        moment = time.monotonic()
        with self._lock:
            entry = self._kept.get(url)
        # Keys are asked for again at most every ten seconds: a stranger's token must not make us ask at will.
        if entry and moment - entry[0] < (10.0 if fresh else _KEEP_S):
            return entry[1]
        try:
            with httpx2.Client(timeout=_TIMEOUT_S, follow_redirects=False, trust_env=False) as client:
                answer = client.get(url)
                answer.raise_for_status()
                if len(answer.content) > _MAX_BYTES:
                    raise ValueError("the document is too long")
                document = answer.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise _not_a_provider(self._settings.issuer, error) from error
        if not isinstance(document, dict):
            raise _not_a_provider(self._settings.issuer, "no JSON object")
        with self._lock:
            self._kept[url] = (moment, cast("dict[str, Any]", document))
        return cast("dict[str, Any]", document)


def check_address(url: str) -> str:
    """Returns the address of a provider, or raises InvalidInput unless it is https or on this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        return url
    raise InvalidInput(
        "The sign-in provider {url!r} is not reached by https.",
        hint="Set oidc.issuer to an address that begins with https://.",
        url=url[:200],
    )


def _not_a_provider(issuer: str, reason: object) -> UpstreamFailed:
    return UpstreamFailed(
        "The sign-in provider {issuer} does not answer as one: {reason}.",
        hint="Check oidc.issuer in the settings; sign in by password or link meanwhile.",
        issuer=issuer[:200],
        reason=str(reason)[:300] or type(reason).__name__,
    )
