from __future__ import annotations

import pytest

from logeion.actors.gateway.dispatch import HANDLERS
from logeion.actors.gateway.versions import Features, advertised, answer
from logeion.wire.apis import APIS, ApiVersionsRequest
from tests.actors.wire_oracle import answered, received

NAMED = ApiVersionsRequest(client_software_name="a-client", client_software_version="1.2.3")


@pytest.mark.parametrize("version", range(5))
def test_every_version_lists_exactly_what_has_a_handler(version: int) -> None:
    header, request = received(18, version, NAMED)
    ours, theirs = answered(header, answer(request, version, {0, 1, 3, 18, 99}))
    rows = [(row.api_key, row.min_version, row.max_version) for row in ours.api_keys]
    assert rows == [(0, 0, 13), (1, 4, 18), (3, 0, 13), (18, 0, 4)]
    assert [(row.api_key, row.min_version, row.max_version) for row in theirs.api_keys] == rows
    assert ours.error_code == 0 and ours.supported_features == [] and ours.finalized_features == []


def test_features_are_told_from_version_3_and_those_that_may_be_off_from_version_4() -> None:
    features = Features({"metadata.version": [1, 2], "late": [0, 1]}, {"metadata.version": 1}, 42)
    for version, supported in [
        (0, []),
        (3, [("metadata.version", 1, 2)]),
        (4, [("late", 0, 1), ("metadata.version", 1, 2)]),
    ]:
        header, request = received(18, version, NAMED)
        ours, _ = answered(header, answer(request, version, {18}, features))
        assert [(one.name, one.min_version, one.max_version) for one in ours.supported_features] == supported
        finalised = [(one.name, one.min_version_level, one.max_version_level) for one in ours.finalized_features]
        assert (finalised, ours.finalized_features_epoch) == (
            ([("metadata.version", 1, 1)], 42) if version else ([], -1)
        )


def test_what_is_advertised_is_dispatched() -> None:
    assert set(HANDLERS) == {api.key for api in APIS.values() if api.advertised}


def test_produce_is_advertised_from_0_because_librdkafka_decides_about_compression_by_it() -> None:
    [row] = advertised(frozenset({0}))
    assert row.min_version == 0 and APIS[0].min_version == 3


def test_keys_that_are_not_advertised_are_not_listed_even_when_they_have_a_handler() -> None:
    hidden = {api.key for api in APIS.values() if not api.advertised}
    assert not hidden & {row.api_key for row in advertised(frozenset(APIS))}


@pytest.mark.parametrize("name", ["", "-x", "a b", "x-", "ü"])
def test_a_client_that_names_itself_improperly_is_told_so_from_version_3(name: str) -> None:
    strange = ApiVersionsRequest(client_software_name=name, client_software_version="1")
    assert answer(strange, 3, {18}).error_code == 42
    assert answer(strange, 2, {18}).error_code == 0
