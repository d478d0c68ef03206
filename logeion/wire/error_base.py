"""The branches of the error tree; ``errors`` draws the whole of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar


class LogeionError(Exception):
    """The root of everything that Logeion raises on purpose."""


class KafkaError(LogeionError):
    """An answer of Kafka's protocol.

    ``code`` is the number on the wire and ``name`` Kafka's constant for it. ``retriable``: the same request may
    succeed later. ``refreshes_metadata``: only after the client has asked again who leads what. ``hint`` says what a
    person can do.
    """

    code: ClassVar[int] = -1
    name: ClassVar[str] = "UNKNOWN_SERVER_ERROR"
    retriable: ClassVar[bool] = False
    refreshes_metadata: ClassVar[bool] = False
    hint: ClassVar[str] = ""

    def __init_subclass__(
        cls, *, code: int | None = None, retriable: bool = False, refreshes_metadata: bool = False, name: str = ""
    ) -> None:
        super().__init_subclass__()
        if code is None:
            return
        cls.code = code
        cls.name = name or re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__.removesuffix("Error")).upper()
        cls.retriable = retriable
        cls.refreshes_metadata = refreshes_metadata
        ERRORS[code] = cls

    def __str__(self) -> str:
        return super().__str__() or (self.__doc__ or "").strip()


# The classes by their code; complete once ``errors`` is imported.
ERRORS: dict[int, type[KafkaError]] = {}


def for_code(code: int) -> type[KafkaError]:
    """The class of an error code; a code that nobody knows is an UnknownServerError, as in Kafka.

    Raises ValueError for 0, which is no error.
    """
    if code == 0:
        raise ValueError("code 0 means that there was no error")
    return ERRORS.get(code, ERRORS[-1])


class WireError(LogeionError):
    """Bytes that are not what they claim to be, or a message that cannot be written."""


class TruncatedError(WireError):
    """A length or a count reaches beyond the end of the frame."""


class MalformedError(WireError):
    """A value that the protocol does not allow here, or bytes left over after the message."""


class UnknownApiError(WireError):
    """An API key that is not in the table."""


class UnknownVersionError(WireError):
    """A version of an API that we do not speak."""


class EncodeError(WireError):
    """A message that does not fit its schema: a number out of range, or null where null is not allowed."""


class DecompressionError(WireError):
    """Compressed bytes that are not what their codec makes."""


class OversizedError(WireError):
    """Compressed bytes that become more than the limit."""


class ConfigError(LogeionError):
    """A setting that cannot be used; the message names it and says what would do."""


class StorageError(LogeionError):
    """A file that cannot be read or written."""

    def __init__(self, message: str, path: Path | str = "") -> None:
        super().__init__(message)
        self.path: Path = Path(path)
