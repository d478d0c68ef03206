"""Faults on demand, said from the test and committed by the proxy: ``faults.error("Produce", …).times(2)``."""

from __future__ import annotations

import difflib
import json
import socket
from typing import Any

from logeion.wire.apis import APIS
from logeion.wire.errors import ERRORS, KafkaError

ANSWER_S = 10.0


class Control:
    """The line to the proxy: one JSON object there, one back."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(ANSWER_S)
        self._sock = sock
        self._lines = sock.makefile("rb")

    def tell(self, **order: Any) -> dict[str, Any]:
        """Returns when the proxy has carried it out. Raises OSError when it is gone."""
        self._sock.sendall(json.dumps(order).encode() + b"\n")
        line = self._lines.readline()
        if not line:
            raise ConnectionResetError("the fault proxy ended; the broker's log says why")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """The proxy ends by this."""
        self._lines.close()
        self._sock.close()


class Fault:
    """One fault in force: for every request of its kind, until ``times`` or ``once`` bounds it or the test ends."""

    def __init__(self, control: Control, number: int) -> None:
        self._control = control
        self.number = number

    def times(self, count: int) -> Fault:
        """Only for the first ``count`` requests since it was set."""
        self._control.tell(do="limit", id=self.number, times=count)
        return self

    def once(self) -> Fault:
        """Only for the first request."""
        return self.times(1)

    @property
    def hits(self) -> int:
        """The requests that it befell so far."""
        return int(self._control.tell(do="hits", id=self.number)["hits"])


class Faults:
    """Sets faults by the API's name in Kafka's protocol: "Produce", "Fetch", "OffsetCommit", …

    They befall every client that comes through the broker's bootstrap address, not the broker fixture's own calls. Of
    several faults for one API the one set first comes first; a delay goes with any other.
    """

    def __init__(self, control: Control) -> None:
        self._control = control
        self._set: list[int] = []

    def error(self, api: str, code: str | int | type[KafkaError]) -> Fault:
        """The request is not carried out but answered with this error: Kafka's name, its number or our class.

        Metadata alone is carried out (its brokers must be real), with the error beside each topic. Raises ValueError
        for a name that is not in the protocol.
        """
        return self._add("error", api, code=_code(code))

    def delay(self, api: str, seconds: float) -> Fault:
        """The request, and what comes behind it on its connection, reaches the broker this much later."""
        return self._add("delay", api, seconds=seconds)

    def disconnect(self, api: str, *, at: str = "request") -> Fault:
        """The connection ends instead of an answer.

        ``at="request"``: before the broker has seen it. ``at="response"``: after it was carried out, in the middle of
        the answer. Raises ValueError for anything else.
        """
        if at not in ("request", "response"):
            raise ValueError(f"at={at!r}: it is 'request' or 'response'")
        return self._add("disconnect", api, at=at)

    def clear(self) -> None:
        """Removes all of them; what is being delayed goes on at once."""
        gone, self._set = self._set, []
        if gone:
            self._control.tell(do="remove", ids=gone)

    def _add(self, kind: str, api: str, *, code: int = 0, seconds: float = 0.0, at: str = "request") -> Fault:
        number = Faults._last = Faults._last + 1
        key = _api(api)
        self._control.tell(do="add", id=number, kind=kind, api=key, code=code, seconds=seconds, at=at, times=None)
        self._set.append(number)
        return Fault(self._control, number)

    _last = 0


def _api(name: str) -> int:
    keys = {api.name: api.key for api in APIS.values()}
    if name not in keys:
        raise ValueError(f"no API is called {name!r}{_meant(name, keys)}")
    return keys[name]


def _code(code: str | int | type[KafkaError]) -> int:
    if isinstance(code, type):
        return code.code
    if isinstance(code, int):
        return code
    names = {error.name: number for number, error in ERRORS.items()}
    if code not in names:
        raise ValueError(f"no error of Kafka's is called {code!r}{_meant(code, names)}")
    return names[code]


def _meant(name: str, known: dict[str, int]) -> str:
    folded = {one.casefold(): one for one in known}
    near = difflib.get_close_matches(name.casefold(), folded, 1)
    return f"; did you mean {folded[near[0]]!r}?" if near else ""
