"""A sign-in provider in a process of its own: authlib's OpenID Connect server on Flask, strict about what comes in.

`python -m tests.support.oidc_provider PORT REDIRECT_URI`. The client is `fust`, its secret `a-client-secret`. Whoever
comes is signed in as the person that `POST /person` set last. `POST /trick` makes it lie, as a bad provider would.
"""

from __future__ import annotations

import hmac
import json
import os
import sys
import time
from typing import Any

from authlib.integrations.flask_oauth2 import AuthorizationServer, ResourceProtector, current_token
from authlib.oauth2.rfc6749 import ClientMixin, TokenMixin, grants
from authlib.oauth2.rfc6750 import BearerTokenValidator
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core import OpenIDCode, UserInfo
from authlib.oidc.core.models import AuthorizationCodeMixin
from flask import Flask, jsonify, request
from joserfc import jwk, jws
from joserfc.util import urlsafe_b64encode

CLIENT_ID, CLIENT_SECRET = "fust", "a-client-secret"


class Client(ClientMixin):
    def __init__(self, redirect_uri: str) -> None:
        self.redirect_uri = redirect_uri

    def get_client_id(self) -> str:
        return CLIENT_ID

    def get_default_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_allowed_scope(self, scope: str) -> str:
        return " ".join(s for s in scope.split() if s in ("openid", "profile", "email"))

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri == self.redirect_uri

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == CLIENT_SECRET

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == "client_secret_basic"

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "authorization_code"


class Code(AuthorizationCodeMixin):
    def __init__(self, given: Any, person: dict[str, Any]) -> None:
        self.given = given
        self.person = person
        self.code_challenge = given.get("code_challenge")
        self.code_challenge_method = given.get("code_challenge_method")

    def get_redirect_uri(self) -> str:
        return self.given.get("redirect_uri")

    def get_scope(self) -> str:
        return self.given.get("scope")

    def get_nonce(self) -> str:
        return self.given.get("nonce")

    def get_auth_time(self) -> int:
        return int(time.time())

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> None:
        return None


class Token(TokenMixin):
    def __init__(self, person: dict[str, Any], scope: str) -> None:
        self.person, self.scope = person, scope

    def get_scope(self) -> str:
        return self.scope

    def is_expired(self) -> bool:
        return False

    def is_revoked(self) -> bool:
        return False


def make_app(port: int, redirect_uri: str) -> Flask:
    app = Flask(__name__)
    issuer = f"http://127.0.0.1:{port}"
    key = jwk.RSAKey.generate_key(2048, {"kid": "one"}, auto_kid=False)
    other = jwk.RSAKey.generate_key(2048, {"kid": "one"}, auto_kid=False)
    state: dict[str, Any] = {"person": {"sub": "1", "preferred_username": "maria"}, "trick": ""}
    codes: dict[str, Code] = {}
    tokens: dict[str, Token] = {}
    client = Client(redirect_uri)

    class Grant(grants.AuthorizationCodeGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic",)

        def save_authorization_code(self, code: str, request: Any) -> None:
            codes[code] = Code(dict(request.payload.data), dict(state["person"]))

        def query_authorization_code(self, code: str, client: Client) -> Code | None:
            return codes.get(code)

        def delete_authorization_code(self, authorization_code: Code) -> None:
            if state["trick"] != "codes_stay":
                codes.pop(next(c for c, kept in codes.items() if kept is authorization_code))

        def authenticate_user(self, authorization_code: Code) -> dict[str, Any]:
            return authorization_code.person

    class IdToken(OpenIDCode):
        def exists_nonce(self, nonce: str, request: Any) -> bool:
            return False

        def get_client_algorithm(self, client: Client) -> str:
            return "RS256"

        def get_encode_header(self, client: Client) -> dict[str, str]:
            return {"alg": "RS256", "kid": "one"}

        def resolve_client_private_key(self, client: Client) -> Any:
            return key

        def get_client_claims(self, client: Client) -> dict[str, Any]:
            return {"iss": issuer}

        def generate_user_info(self, user: dict[str, Any], scope: str) -> UserInfo:
            return UserInfo(sub=user["sub"])

        def get_compatible_claims(self, request: Any) -> dict[str, Any]:
            moment = int(time.time())
            return {"iss": issuer, "aud": [CLIENT_ID], "iat": moment, "exp": moment + 300}

        def encode_id_token(self, token: Any, request: Any) -> str:
            good = super().encode_id_token(token, request)
            return forge(good, state["trick"])

    def forge(good: str, trick: str) -> str:
        claims = json.loads(jws.extract_compact(good.encode()).payload)
        header, signer = {"alg": "RS256", "kid": "one"}, key
        changed = {
            "nonce": {"nonce": "another"},
            "no_nonce": {"nonce": None},
            "audience": {"aud": ["somebody-else"]},
            "two_audiences": {"aud": [CLIENT_ID, "somebody-else"], "azp": "somebody-else"},
            "issuer": {"iss": "https://evil.example"},
            "expired": {"exp": int(time.time()) - 3600, "iat": int(time.time()) - 7200},
            "subject": {"sub": "1000"},
            "no_subject": {"sub": None},
            "at_hash": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
        }.get(trick)
        if changed is not None:
            claims = {k: v for k, v in {**claims, **changed}.items() if v is not None}
        elif trick == "forged":
            signer = other
        elif trick == "none":
            parts = [json.dumps({"alg": "none"}).encode(), json.dumps(claims).encode()]
            return ".".join(urlsafe_b64encode(part).decode() for part in parts) + "."
        elif trick == "hmac":  # signed with the public key as if it were a shared secret (RFC 8725, 2.1)
            parts = [json.dumps({"alg": "HS256", "kid": "one"}).encode(), json.dumps(claims).encode()]
            signed = b".".join(urlsafe_b64encode(part) for part in parts)
            code = hmac.digest(key.as_pem(private=False), signed, "sha256")
            return (signed + b"." + urlsafe_b64encode(code)).decode()
        else:
            return good
        return jws.serialize_compact(header, json.dumps(claims), signer)

    class Validator(BearerTokenValidator):
        def authenticate_token(self, token_string: str) -> Token | None:
            return tokens.get(token_string)

    def save_token(token: dict[str, Any], request: Any) -> None:
        tokens[token["access_token"]] = Token(request.user, token["scope"])

    server = AuthorizationServer(
        app, query_client=lambda id_: client if id_ == CLIENT_ID else None, save_token=save_token
    )
    server.register_grant(Grant, [IdToken(require_nonce=True), CodeChallenge(required=True)])
    protect = ResourceProtector()
    protect.register_token_validator(Validator())

    @app.get("/.well-known/openid-configuration")
    def configuration() -> Any:
        return jsonify(
            issuer=issuer,
            authorization_endpoint=f"{issuer}/authorize",
            token_endpoint=f"{issuer}/token",
            userinfo_endpoint=f"{issuer}/userinfo",
            jwks_uri=f"{issuer}/jwks",
            response_types_supported=["code"],
            subject_types_supported=["public"],
            id_token_signing_alg_values_supported=["RS256", "HS256", "none"],
        )

    @app.get("/jwks")
    def jwks() -> Any:
        return jsonify(keys=[key.as_dict(private=False)])

    @app.get("/authorize")
    def authorize() -> Any:
        grant = server.get_consent_grant(end_user=state["person"])
        user = None if state["trick"] == "refuse" else state["person"]
        return server.create_authorization_response(grant_user=user, grant=grant)

    @app.post("/token")
    def token() -> Any:
        return server.create_token_response()

    @app.get("/userinfo")
    @protect("openid")
    def userinfo() -> Any:
        person = current_token.person
        return jsonify({**person, "sub": "somebody-else"} if state["trick"] == "userinfo" else person)

    @app.post("/person")
    def set_person() -> Any:
        state.update(person=request.get_json(), trick="")
        return ""

    @app.post("/trick")
    def set_trick() -> Any:
        state["trick"] = request.get_json()
        return ""

    return app


if __name__ == "__main__":
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"
    from werkzeug.serving import run_simple

    run_simple("127.0.0.1", int(sys.argv[1]), make_app(int(sys.argv[1]), sys.argv[2]), threaded=True)
