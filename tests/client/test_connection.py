"""A connection against a peer that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import functools
import struct
from collections.abc import Awaitable, Callable

import pytest

from logeion.client.addresses import Address
from logeion.client.connection import API_VERSIONS, THROTTLE_MAX_S, Connection, throttle_s
from logeion.client.errors import ConnectError, ConnectionLostError, DeadlineError
from logeion.wire.apis import ApiVersion, ApiVersionsResponse, MetadataRequest, MetadataRequestTopic, MetadataResponse
from logeion.wire.codec import encode_response, parse_header, unsupported_api_versions

METADATA = 3
Answer = Callable[[bytes], bytes | Awaitable[bytes] | None]


def version_answer(frame: bytes) -> bytes:
    body = ApiVersionsResponse(
        api_keys=[ApiVersion(api_key=key, min_version=0, max_version=3) for key in (METADATA, API_VERSIONS)]
    )
    return b"".join(encode_response(parse_header(frame), body))  # type: ignore[arg-type]


def metadata_answer(frame: bytes) -> bytes:
    return b"".join(encode_response(parse_header(frame), MetadataResponse(cluster_id="c")))  # type: ignore[arg-type]


def with_peer(answers: list[Answer], work: Callable[[Address], Awaitable[None]]) -> None:
    """Runs ``work`` against a listener that answers each frame by the next function; None closes the connection."""

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                for answer in answers:
                    (size,) = struct.unpack(">i", await reader.readexactly(4))
                    data = answer(await reader.readexactly(size))
                    if isinstance(data, Awaitable):
                        data = await data
                    if data is None:
                        break
                    writer.write(data)
                else:
                    await reader.read()
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        try:
            await work(Address(*server.sockets[0].getsockname()[:2]))
        finally:
            server.close()

    asyncio.run(asyncio.wait_for(main(), 20))


async def opened(address: Address) -> Connection:
    return await Connection.open(address, client_id="t", timeout_s=2.0, learned_from="bootstrap")


def test_versions_are_the_newest_that_both_speak() -> None:
    async def work(address: Address) -> None:
        connection = await opened(address)
        assert connection.versions[METADATA] == 3
        answer = await connection.request(METADATA, MetadataRequest(), timeout_s=2.0)
        assert isinstance(answer, MetadataResponse) and answer.cluster_id == "c"
        connection.close()

    with_peer([version_answer, metadata_answer], work)


def test_a_broker_that_refuses_our_version_of_apiversions_is_asked_in_its_own() -> None:
    def refuse(frame: bytes) -> bytes:
        return b"".join(unsupported_api_versions(parse_header(frame).correlation_id))  # type: ignore[arg-type]

    async def work(address: Address) -> None:
        connection = await opened(address)
        assert METADATA in connection.versions
        connection.close()

    with_peer([refuse, version_answer], work)


def throttling(ms: int) -> Callable[[bytes], bytes]:
    def answer(frame: bytes) -> bytes:
        body = MetadataResponse(cluster_id="c", throttle_time_ms=ms)
        return b"".join(encode_response(parse_header(frame), body))  # type: ignore[arg-type]

    return answer


def versions_with_throttling_metadata(frame: bytes) -> bytes:
    body = ApiVersionsResponse(
        api_keys=[
            ApiVersion(api_key=METADATA, min_version=0, max_version=12),
            ApiVersion(api_key=API_VERSIONS, min_version=0, max_version=3),
        ]
    )
    return b"".join(encode_response(parse_header(frame), body))  # type: ignore[arg-type]


def test_nothing_is_sent_until_a_throttle_is_over_and_deadlines_begin_then() -> None:
    asked: list[float] = []

    def seen(frame: bytes) -> bytes:
        asked.append(asyncio.get_running_loop().time())
        return metadata_answer(frame)

    async def work(address: Address) -> None:
        connection = await opened(address)
        await connection.request(METADATA, MetadataRequest(), timeout_s=2.0)
        told = asyncio.get_running_loop().time()
        assert 0 < connection.throttled_s <= 0.6
        # Shorter than the throttle, and two of them: they leave in their order.
        answers = [connection.send(METADATA, MetadataRequest(), timeout_s=0.3) for _ in range(2)]
        assert connection.silent_s == 0.0
        await asyncio.gather(*answers)
        assert len(asked) == 2 and min(asked) >= told + 0.5
        assert connection.throttled_s == 0.0
        connection.close()

    with_peer([versions_with_throttling_metadata, throttling(600), seen, seen], work)


def test_a_longer_throttle_postpones_what_is_held_and_closing_fails_it() -> None:
    held_now = asyncio.Event()

    async def later(frame: bytes) -> bytes:
        await held_now.wait()
        return throttling(30_000)(frame)

    async def work(address: Address) -> None:
        connection = await opened(address)
        first, second = (connection.send(METADATA, MetadataRequest(), timeout_s=5.0) for _ in range(2))
        await first
        held = connection.send(METADATA, MetadataRequest(), timeout_s=0.5)
        before = connection.throttled_s
        held_now.set()
        await second
        assert connection.throttled_s > before + 10
        connection.close()
        with pytest.raises(ConnectionLostError):
            await held
        assert connection.throttled_s == 0.0

    with_peer([versions_with_throttling_metadata, throttling(10_000), later], work)


@pytest.mark.parametrize("end", [False, True])
def test_who_sends_without_answers_is_told_when_the_socket_takes_more(end: bool) -> None:
    reads = asyncio.Event()

    async def stalled(frame: bytes) -> bytes:
        await reads.wait()
        return b""

    async def work(address: Address) -> None:
        connection = await opened(address)
        assert connection.writable
        await connection.drained()
        large = MetadataRequest(topics=[MetadataRequestTopic(name="t" * 1000) for _ in range(1000)])
        sent = 0
        while connection.writable:  # the peer reads the first, and the system keeps some more
            connection.send_unanswered(METADATA, large)
            sent += 1
            assert sent < 100, "no socket takes so much"
            await asyncio.sleep(0.05)
        told: list[int] = []
        tell = functools.partial(told.append, 1)
        connection.when_writable(tell)
        connection.when_writable(tell)
        draining = asyncio.create_task(connection.drained())
        await asyncio.sleep(0.05)  # nothing may happen
        assert not told and not draining.done()
        if end:
            connection.close()
        else:
            reads.set()
        await asyncio.wait_for(draining, 10)
        assert told == [1] and connection.closed == end
        connection.when_writable(tell)
        await asyncio.sleep(0)
        assert told == [1, 1]
        connection.close()
        reads.set()

    with_peer([version_answer, stalled], work)


def test_only_versions_since_kip_219_leave_the_waiting_to_the_client() -> None:
    def said(version: int, ms: int) -> float:
        return throttle_s(METADATA, version, MetadataResponse(throttle_time_ms=ms))

    assert [said(5, 100), said(6, 100), said(12, 0), said(12, -1)] == [0.0, 0.1, 0.0, 0.0]
    assert said(12, 2**31 - 1) == THROTTLE_MAX_S


def test_a_connection_cut_before_the_answer_fails_all_that_wait() -> None:
    async def work(address: Address) -> None:
        connection = await opened(address)
        answers = [connection.send(METADATA, MetadataRequest(), timeout_s=5.0) for _ in range(3)]
        for answer in answers:
            with pytest.raises(ConnectionLostError, match=r"closed the connection|was lost"):
                await answer
        assert connection.closed

    with_peer([version_answer, lambda _: None], work)


def test_an_answer_cut_in_the_middle_is_a_lost_connection() -> None:
    def cut(frame: bytes) -> bytes | None:
        return metadata_answer(frame)[:-3]

    async def work(address: Address) -> None:
        connection = await opened(address)
        first = connection.send(METADATA, MetadataRequest(), timeout_s=5.0)
        second = connection.send(METADATA, MetadataRequest(), timeout_s=5.0)
        for answer in (first, second):
            with pytest.raises(ConnectionLostError):
                await answer

    with_peer([version_answer, cut, lambda _: None], work)


def test_no_answer_in_time_is_a_deadline_and_ends_the_connection() -> None:
    async def work(address: Address) -> None:
        connection = await opened(address)
        with pytest.raises(DeadlineError, match=r"did not answer Metadata within 0\.05 s"):
            await connection.request(METADATA, MetadataRequest(), timeout_s=0.05)
        assert connection.closed

    with_peer([version_answer, lambda _: b""], work)


@pytest.mark.parametrize(
    "garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff\xff\xff\xff", b"\x00\x00\x00\x05abcde"]
)
def test_a_peer_that_is_no_broker_is_named_as_such(garbage: bytes) -> None:
    async def work(address: Address) -> None:
        with pytest.raises(ConnectError) as caught:
            await opened(address)
        assert str(address) in str(caught.value) and caught.value.hint

    with_peer([lambda _: garbage, lambda _: None], work)


def test_a_refused_connection_answers_the_four_questions() -> None:
    async def main() -> None:
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        for learned_from, advice in (("bootstrap", "logeion up"), ("metadata", "--advertise")):
            with pytest.raises(ConnectError) as caught:
                await Connection.open(
                    Address("127.0.0.1", port), client_id="t", timeout_s=2.0, learned_from=learned_from
                )
            for part in (f"127.0.0.1:{port}", learned_from, "refused"):
                assert part in str(caught.value)
            assert advice in caught.value.hint

    asyncio.run(main())
