from __future__ import annotations

import pytest
from kio.schema.errors import ErrorCode

import logeion.errors
from logeion.wire import errors
from logeion.wire.errors import ERRORS, KafkaError, LogeionError, UnknownServerError, for_code


@pytest.mark.oracle
def test_codes_names_and_retriability_are_kafkas() -> None:
    for theirs in ErrorCode:
        if theirs.value == 0:
            continue
        ours = for_code(theirs.value)
        assert (ours.code, ours.name.lower(), ours.retriable) == (theirs.value, theirs.name, theirs.retriable)


def test_every_error_says_what_happened_and_what_to_do() -> None:
    for code, error in ERRORS.items():
        assert error.code == code
        assert str(error()) and error.hint
        assert str(error("orders-0: gone")) == "orders-0: gone"
        assert error.retriable or not error.refreshes_metadata


def test_one_tree_under_one_name() -> None:
    for name in errors.__all__:
        value = getattr(errors, name)
        assert getattr(logeion.errors, name) is value
        if isinstance(value, type):
            assert issubclass(value, LogeionError)
    assert set(errors.__all__) > {error.__name__ for error in ERRORS.values()}
    assert all(issubclass(error, KafkaError) for error in ERRORS.values())


def test_an_unknown_code_is_an_unknown_server_error() -> None:
    assert for_code(9999) is UnknownServerError
    with pytest.raises(ValueError, match="no error"):
        for_code(0)
