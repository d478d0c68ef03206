"""The console over a view that is made up, through ASGI as a server would call it."""

from __future__ import annotations

import asyncio

import httpx

from logeion.console.app import console
from logeion.console.view import ActorRow, ClusterRow, Metric, NodeRow

ROW = ActorRow(
    kind="partition",
    id="partition/orders-0",
    node=1,
    pid=42,
    topic="orders",
    partition=0,
    epoch=7,
    state="running",
    restarts=2,
)


class SomeNode:
    def __init__(self, *reasons: str) -> None:
        self.node = 1
        self.reasons = list(reasons)

    def actors(self) -> list[ActorRow]:
        return [ROW]

    def unready(self) -> list[str]:
        return self.reasons

    def cluster(self) -> ClusterRow:
        return ClusterRow(
            cluster_id="c",
            healthy=True,
            controller=None,
            nodes=[NodeRow(node=1, host="h", port=9092, rack=None, state="running", leads=1, replicas=1)],
            topics=1,
            partitions=1,
            offline=[],
            under_min_isr=[],
            under_replicated=[],
            reassigning=[],
        )

    def metrics(self) -> list[Metric]:
        return [Metric("mine", "gauge", "one", [({}, 1)])]

    def cluster_metrics(self) -> list[Metric]:
        return [Metric("ours", "counter", "all", [({}, 2)])]


def get(node: SomeNode, path: str, method: str = "GET") -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=console(node))
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
            return await client.request(method, path)

    return asyncio.run(ask())


def test_a_node_whose_loop_turns_is_alive() -> None:
    answer = get(SomeNode("no gateway listens"), "/livez")
    assert answer.status_code == 200
    assert answer.json() == {"alive": True, "node": 1}


def test_a_node_that_cannot_serve_says_why() -> None:
    answer = get(SomeNode("no gateway listens"), "/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "node": 1, "reasons": ["no gateway listens"]}


def test_a_node_that_serves_is_ready() -> None:
    answer = get(SomeNode(), "/readyz")
    assert answer.status_code == 200
    assert answer.json()["ready"] is True


def test_actors_are_a_list_with_one_object_each() -> None:
    answer = get(SomeNode(), "/api/actors")
    assert answer.headers["content-type"] == "application/json"
    [actor] = answer.json()
    assert actor == {
        "kind": "partition",
        "id": "partition/orders-0",
        "node": 1,
        "pid": 42,
        "topic": "orders",
        "partition": 0,
        "epoch": 7,
        "state": "running",
        "restarts": 2,
        "cause": "",
    }


def test_an_unknown_path_names_those_that_exist() -> None:
    answer = get(SomeNode(), "/nowhere")
    assert answer.status_code == 404
    assert "/api/actors" in answer.json()["try"]


def test_nothing_can_be_changed() -> None:
    assert get(SomeNode(), "/api/actors", "POST").status_code == 405


def test_the_cluster_is_one_object() -> None:
    body = get(SomeNode(), "/api/cluster").json()
    assert (body["healthy"], body["controller"], body["offline"]) == (True, None, [])
    assert body["nodes"][0]["state"] == "running"


def test_metrics_are_prometheus_text() -> None:
    mine, ours = get(SomeNode(), "/metrics"), get(SomeNode(), "/metrics/cluster")
    assert mine.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert mine.text == "# HELP mine one\n# TYPE mine gauge\nmine 1\n"
    assert "ours 2\n" in ours.text
