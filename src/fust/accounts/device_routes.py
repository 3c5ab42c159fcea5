"""`/fust/v1/device`: letting a program in that shows a code (`hf auth login`); what it calls itself is in `/oauth`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

import msgspec
from litestar import post
from litestar.types import ControllerRouterHandler

from fust.accounts.devices import Devices
from fust.accounts.rights import Identity
from fust.core.clock import iso, utc_naive

_PROGRAMS = {"26be6b09-91c5-47da-9861-d2d2bb7a7e36": "hf auth login"}
"""Client ids of device logins that are public (huggingface_hub.constants.DEVICE_CODE_OAUTH_CLIENT_ID)."""
Code = Annotated[str, msgspec.Meta(max_length=50)]


class DeviceQuestion(msgspec.Struct, forbid_unknown_fields=True):
    """The code that the program shows."""

    code: Code


class DeviceAnswer(msgspec.Struct, forbid_unknown_fields=True):
    """The code, and what the key that the program gets may."""

    code: Code
    scope: Literal["read", "write"] = "write"
    name: Annotated[str, msgspec.Meta(max_length=100)] = "device login"
    days: Annotated[int, msgspec.Meta(ge=0, le=3650)] = 0
    """How long the key lasts; 0: until it is revoked."""


class DeviceAsking(msgspec.Struct):
    """A program that asks to be let in."""

    code: str
    program: str
    """What it calls itself: its client id when that is known, else its User-Agent."""
    address: str
    created_at: str | None
    expires_at: str | None


@post("/fust/v1/device/look", status_code=200, sync_to_thread=True)
def look_at_device(data: DeviceQuestion, devices: Devices, identity: Identity) -> DeviceAsking:
    """What asks under a code; for a signed-in browser."""
    found = devices.look(identity, data.code)
    return DeviceAsking(
        found.user_code,
        _PROGRAMS.get(found.client_id) or found.agent or found.client_id,
        found.address,
        iso(found.created_at),
        iso(found.expires_at),
    )


@post("/fust/v1/device/allow", status_code=204, sync_to_thread=True)
def allow_device(data: DeviceAnswer, devices: Devices, identity: Identity) -> None:
    """Lets the program in: it gets a key of the caller's."""
    ends = utc_naive() + timedelta(days=data.days) if data.days else None
    devices.allow(identity, data.code, scope=data.scope, name=data.name, ends=ends)


@post("/fust/v1/device/deny", status_code=204, sync_to_thread=True)
def deny_device(data: DeviceQuestion, devices: Devices, identity: Identity) -> None:
    """Turns the program away."""
    devices.deny(identity, data.code)


handlers: list[ControllerRouterHandler] = [look_at_device, allow_device, deny_device]
