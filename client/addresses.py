"""Where brokers are: ``host:port`` as people write it. Pure."""

from __future__ import annotations

from typing import NamedTuple

from logeion.wire.errors import ConfigError

DEFAULT_PORT = 9092


class Address(NamedTuple):
    """A host (name or address, IPv6 without brackets) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_bootstrap(text: str) -> list[Address]:
    """``host[:port],…`` as a list of addresses, port 9092 where none is named. Raises ConfigError.

    >>> [str(address) for address in parse_bootstrap("a, [::1]:9093")]
    ['a:9092', '[::1]:9093']
    """
    found = [_parse(part.strip()) for part in text.split(",") if part.strip()]
    if not found:
        raise ConfigError("no bootstrap address: write host:port")
    return found


def _parse(text: str) -> Address:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ConfigError(f"bootstrap address {text!r}: write [IPv6 address]:port")
        port = rest[1:]
    elif text.count(":") > 1:
        host, port = text, ""
    else:
        host, _, port = text.partition(":")
    if not host:
        raise ConfigError(f"bootstrap address {text!r} names no host: write host:port")
    if not port:
        return Address(host, DEFAULT_PORT)
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"bootstrap address {text!r}: the port is a number from 1 to 65535")
    return Address(host, int(port))
