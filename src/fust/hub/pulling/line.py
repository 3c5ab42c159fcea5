"""The way to a hub, opened for one repo: off private addresses, within the bandwidth, with the right token."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

from fust.core.errors import Denied, InvalidInput, UpstreamFailed
from fust.core.settings import Settings
from fust.hub.guard import is_private, public_addresses_only, resolve
from fust.hub.pulling.forms import HubForm, open_form
from fust.hub.pulling.pace import Pace, parse_limit
from fust.hub.pulling.parts import parts_folder
from fust.hub.pulling.types import Source, parse_source
from fust.hub.pulling.web import Web


def _mirror_tokens(settings: Settings) -> dict[str, str]:
    """Returns mirror -> token, as the setting gives them.

    Raises:
        InvalidInput: an entry is not an address and a token.
    """
    found: dict[str, str] = {}
    for entry in settings.pull.mirror_tokens:
        url, _, token = entry.strip().partition(" ")
        if not token or " " in token.strip():
            raise InvalidInput(
                "An entry of the setting pull.mirror_tokens is not an address and a token.",
                hint='Write each like "https://hub.school.org hf_abc", with one space.',
            )
        found[str(parse_source(url))] = token.strip()
    return found


class Lines:
    """The hubs that a run may ask: the one it named, and the mirrors when that one is the home's own."""

    def __init__(
        self,
        settings: Settings,
        source: str,
        *,
        token: str,
        is_admin: bool,
        limit: str,
        say: Callable[..., None],
    ) -> None:
        self._settings = settings
        self._say = say
        self._first = parse_source(source)
        own = parse_source(settings.pull.source)
        self._own = {str(own), *(str(parse_source(text)) for text in settings.pull.mirrors)}
        is_own = self._first == own
        self._tokens = {str(own): settings.pull.token, **_mirror_tokens(settings)}
        if token:
            self._tokens[str(self._first)] = token
        self._may_private = settings.pull.allow_private_addresses
        self._is_admin = is_admin
        self.sources = [self._first]
        if is_own:
            self.sources += [parse_source(text) for text in settings.pull.mirrors]
        self._paces: list[Pace] = []
        if limit:
            self._paces.append(Pace(parse_limit(limit)))
        if settings.pull.limit:
            self._paces.append(Pace(parse_limit(settings.pull.limit), parts_folder(settings.home) / "clock"))

    def close(self) -> None:
        """Lets go of the bandwidth."""
        for pace in self._paces:
            pace.close()

    @contextmanager
    def open(self, source: Source) -> Generator[HubForm]:
        """Gives a hub to ask.

        Raises:
            UpstreamFailed: its name has no address.
            Denied: it lives on a private address, and the caller may not ask for that.

        """
        is_trusted = self._is_admin or self._may_private or str(source) in self._own
        with ExitStack() as stack:
            self._keep_off(stack, source, is_trusted=is_trusted)
            web = Web(
                source,
                self._tokens.get(str(source), ""),
                patience_s=self._settings.pull.patience_s,
                paces=tuple(self._paces),
                stop=threading.Event(),
                say=self._say,
            )
            stack.callback(web.close)
            yield open_form(web, use_xet=is_trusted)

    def _keep_off(self, stack: ExitStack, source: Source, *, is_trusted: bool) -> None:
        """Keeps the process off private addresses; but for the source's own when it lives on one, and may."""
        parts = urlsplit(source.url)
        try:
            addresses = resolve(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        except OSError as error:
            raise UpstreamFailed(
                "{source} cannot be reached ({reason}).",
                hint="Check the network, or name another hub with --from.",
                source=source,
                reason=str(error),
            ) from error
        private = [address for address in addresses if is_private(address)]
        if private and not is_trusted:
            raise Denied(
                "{source} lives on a private address.",
                hint="Let an administrator pull from it, or set pull.allow_private_addresses.",
                code="private_address",
                source=source,
            )
        if not self._may_private:
            stack.enter_context(public_addresses_only(private))
