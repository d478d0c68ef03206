"""What a typed topic takes: nothing that its readers could not read."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from typing import Any, Literal, TypedDict

import msgspec
import pytest

from logeion.client.topics import Topic


class Order(msgspec.Struct):
    id: int


class Special(Order):
    why: str = ""


class Row(TypedDict):
    id: int


@dataclasses.dataclass
class Point:
    x: int


class Colour(enum.Enum):
    RED = "red"


GOOD: list[tuple[Any, Any]] = [
    (int, 1),
    (float, 1.5),
    (float, 2),
    (bool, True),
    (Order, Order(1)),
    (Order, Special(1)),
    (Point, Point(1)),
    (Colour, Colour.RED),
    (Row, {"id": 1}),
    (dict, {"no": 1}),
    (list[int], [1]),
    (dict[str, Order], {"a": Order(1)}),
    (Order | None, Order(1)),
    (float | None, 1),
    (Literal["a", "b"], "b"),
    (datetime.datetime, datetime.datetime(2026, 1, 1)),
    (Any, {"no": 1}),
]
BAD: list[tuple[Any, Any]] = [
    (int, {"no": 1}),
    (int, "1"),
    (int, True),
    (int, 1.0),
    (float, "x"),
    (float, True),
    (bool, 1),
    (Order, {"id": 1}),
    (Point, Order(1)),
    (Colour, "red"),
    (Row, {"id": "x"}),
    (list[int], ["x"]),
    (dict[str, Order], {"a": 1}),
    (Order | None, 5),
    (int | str, True),
    (Literal["a", "b"], "c"),
    (str, 1),
    (bytes, "x"),
]


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize(("kind", "value"), GOOD)
def test_what_is_of_the_type_can_be_sent_and_read(kind: Any, value: Any, codec: Any) -> None:
    topic: Topic[Any, Any] = Topic("t", key=kind, value=kind, codec=codec)
    data, key = topic.encode(value, value)
    assert data is not None and key is not None
    if not isinstance(value, Special):
        assert topic.decode_value(data) == topic.decode_key(key) == value


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize(("kind", "value"), BAD)
def test_what_is_not_of_the_type_cannot_be_sent(kind: Any, value: Any, codec: Any) -> None:
    topic: Topic[Any, Any] = Topic("t", key=kind, value=kind, codec=codec)
    for value_too, key in ((value, None), (None, value)):
        with pytest.raises(TypeError):
            topic.encode(value_too, key)


def test_another_object_than_the_pydantic_model_is_a_type_error() -> None:
    class Model:
        """As pydantic's look."""

        @classmethod
        def model_validate_json(cls, data: bytes) -> Model:
            return cls()

        def model_dump_json(self) -> str:
            return "{}"

    topic: Topic[bytes, Model] = Topic("t", value=Model)
    assert topic.encode(Model(), None) == (b"{}", None)
    with pytest.raises(TypeError, match="Model, not dict"):
        topic.encode({}, None)  # type: ignore[arg-type]
