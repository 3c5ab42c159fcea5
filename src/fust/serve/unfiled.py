"""Deployments without a file of the hub: who may give one which name, what it may lead to, and how its key is kept."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from fust.accounts.rights import Identity
from fust.accounts.seal import seal_for
from fust.accounts.service import Accounts
from fust.core.errors import Denied, InvalidInput
from fust.core.ids import split_repo_id
from fust.serve.engines.bare import Wish
from fust.serve.engines.kinds import get_kind
from fust.serve.hosted import Hosted

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

# No "/" and no ":", so that an alias never looks like a repo or like a file or an adapter of one.
ALIAS = re.compile(r"^[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9_])?$")


class Unfiled:
    """What such deployments need besides what all do."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def check_name(self, identity: Identity, name: str) -> str:
        """Returns what stands for the repo: `owner/name` itself, whose readers may use it; empty for everybody.

        Raises:
            InvalidInput: it cannot be a name.
            Denied: the caller may not give it.
        """
        if "/" in name:
            split_repo_id(name)
            self._accounts.check(identity, "repo.push", name)
            return name
        if not ALIAS.match(name):
            raise InvalidInput(
                "{name!r} cannot be the name of a deployment.",
                hint="Use 1 to 128 letters, digits, '.', '_' or '-', with OWNER/ before it for your own.",
                name=name[:150],
                param="name",
            )
        if not identity.is_admin:
            raise Denied(
                "Only administrators give names that are for everybody.",
                hint="Put your own name before it: {user}/{name}.",
                user=identity.user or "",
                name=name,
            )
        return ""

    def read_wish(self, identity: Identity, engine: str, options: object) -> Wish:
        """Returns what a deployment is told, checked.

        Raises:
            InvalidInput: no such engine, one that needs a file, or options that it does not know.
            Denied: it leads to a private address, which only administrators may name.
        """
        kind = get_kind(engine)
        if kind.bare is None:
            raise InvalidInput(
                "The engine {engine} serves a model of the hub.",
                hint="Name it: `fust serve OWNER/NAME --engine {engine}`.",
                engine=engine,
                param="repo_id",
            )
        wish = kind.bare.read_wish(options)
        if wish.hosts and not identity.is_admin:
            raise Denied(
                "{host} is a private address, and only administrators may lead Fust to one.",
                hint="Ask an administrator of this Fust to serve it.",
                host=wish.hosts[0],
                code="private_address",
            )
        return wish

    def seal(self, secret: str) -> str:
        """Returns a key as its row keeps it."""
        return self._seal.encrypt(secret.encode()).decode() if secret else ""

    def unseal(self, hosted: Hosted) -> str:
        """Returns a deployment's key; raises InvalidInput when the home's own key is another one than when it was sealed."""
        from cryptography.fernet import InvalidToken

        if not hosted.sealed:
            return ""
        try:
            return self._seal.decrypt(hosted.sealed.encode()).decode()
        except InvalidToken:
            raise InvalidInput(
                "The key of {model} was sealed by another home.",
                hint="Serve it again with its key.",
                model=hosted.name,
                code="key_lost",
            ) from None

    @functools.cached_property
    def _seal(self) -> Fernet:
        return seal_for(self._accounts.signing_key(), b"fust upstream keys")
