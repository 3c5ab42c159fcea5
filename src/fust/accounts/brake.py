"""A brake on guessing passwords, counted in the database: every process of a home holds the same one."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from fust.accounts.models import FailedSignIn
from fust.accounts.tokens import digest_of
from fust.core.clock import utc_naive
from fust.core.errors import RateLimited

WINDOW = timedelta(minutes=1)
PER_NAME = 10
PER_PLACE = 50


class Brake:
    """Ten wrong passwords a minute for a name from one address, fifty for all names from there.

    A name is never stopped everywhere, or anyone could lock anyone out. An IPv6 address counts as its /64, of which
    one guesser holds all.
    """

    def __init__(self, clock: Callable[[], datetime] = utc_naive) -> None:
        self._clock = clock

    def check(self, session: Session, name: str, address: str) -> None:
        """Raises RateLimited when there were too many wrong passwords lately."""
        wait = self._wait(session, name, address)
        if wait > timedelta(0):
            seconds = wait.total_seconds()
            raise RateLimited(
                "Too many wrong passwords from here.",
                hint="Wait {wait} seconds and try again.",
                retry_after_s=seconds,
                wait=math.ceil(seconds),
            )

    def count(self, session: Session, name: str, address: str) -> bool:
        """Counts a wrong password; returns whether the next try from there would be refused."""
        moment = self._clock()
        # What lies in the future was written before a clock was set back.
        old = (FailedSignIn.at < moment - WINDOW) | (FailedSignIn.at > moment + WINDOW)
        session.execute(delete(FailedSignIn).where(old))
        session.add(FailedSignIn(place=_place_of(address), name_mark=_mark_of(name), at=moment))
        session.flush()
        return self._wait(session, name, address) > timedelta(0)

    def _wait(self, session: Session, name: str, address: str) -> timedelta:
        moment = self._clock()
        query = select(FailedSignIn.name_mark, FailedSignIn.at).where(
            FailedSignIn.place == _place_of(address),
            FailedSignIn.at > moment - WINDOW,
            FailedSignIn.at < moment + WINDOW,
        )
        # The newest fifty tell of a name too: older ones matter only where all names are stopped already.
        found = session.execute(query.order_by(FailedSignIn.at.desc()).limit(PER_PLACE)).all()
        mark = _mark_of(name)
        of_name = [at for other, at in found if other == mark]
        waits = [
            times[most - 1] + WINDOW - moment
            for times, most in ((of_name, PER_NAME), ([at for _, at in found], PER_PLACE))
            if len(times) >= most
        ]
        return min(max(waits, default=timedelta(0)), WINDOW)


def _mark_of(name: str) -> str:
    """Returns what tells names apart and says little of them: what was typed as a name may be a password."""
    return digest_of(name.lower()[:100])[:8]


def _place_of(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address
