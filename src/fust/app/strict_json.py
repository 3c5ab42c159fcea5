"""Bodies of the Fust surface are read as their type says: JSON's own types, and the path of what does not fit."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request
from litestar.datastructures import State
from litestar.exceptions import SerializationException


class StrictRequest(Request[Any, Any, State]):
    """Litestar's request, whose JSON body is decoded into the type that the handler takes.

    Litestar alone decodes to plain values and converts those with leniency: ``"pin": "off"`` would be taken, and an
    error would not say where it is.
    """

    async def json(self) -> Any:
        """Returns the body as the handler's type.

        Raises:
            SerializationException: not JSON, or of another shape; with the path of the fault.

        """
        field = self.route_handler.parsed_data_field
        try:
            return msgspec.json.decode(await self.body() or b"null", type=field.annotation if field else Any)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SerializationException(str(error)) from None
