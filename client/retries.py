"""The one place that decides what may be tried again. Pure."""

from __future__ import annotations

from typing import NamedTuple

from logeion.wire.errors import KafkaError, OutOfOrderSequenceNumberError, WireError

from .errors import ConnectError, ConnectionLostError, DeadlineError


class Advice(NamedTuple):
    """Whether to try again, whether to ask for metadata first, whether the request may have taken effect, and why."""

    retry: bool
    refresh: bool
    maybe_done: bool
    reason: str


def advise(error: BaseException) -> Advice:
    """What to do after this error. The caller adds its own deadline; nothing is retried beyond it."""
    if isinstance(error, OutOfOrderSequenceNumberError):
        # Not retriable for Kafka in general; a producer that knows an earlier batch is on its way again overrules.
        return Advice(False, False, False, "a batch before this one is missing at the broker")
    if isinstance(error, KafkaError):
        # A timeout at the broker leaves the outcome open, every other answer says that nothing was done.
        unsure = error.name in ("REQUEST_TIMED_OUT", "NOT_ENOUGH_REPLICAS_AFTER_APPEND", "NETWORK_EXCEPTION")
        why = "the broker calls it temporary" if error.retriable else "the broker calls it final"
        return Advice(error.retriable, error.refreshes_metadata, unsure, why)
    if isinstance(error, ConnectError):
        return Advice(True, True, False, "the broker may be restarting, or metadata may name another one")
    if isinstance(error, ConnectionLostError):
        return Advice(True, True, True, "the connection ended before the answer")
    if isinstance(error, DeadlineError):
        return Advice(True, True, True, "this broker is slow; another may lead by now")
    if isinstance(error, WireError):
        return Advice(False, False, True, "the answer cannot be read, and asking again will not change that")
    return Advice(False, False, True, "not an error of the protocol")


def backoff_s(attempt: int) -> float:
    """Seconds to wait before attempt ``attempt`` (the first retry is 1): 20 ms doubling up to 1 s.

    It starts low because a killed partition is back within tens of milliseconds.
    """
    return min(0.02 * 2.0 ** (min(attempt, 10) - 1), 1.0)
