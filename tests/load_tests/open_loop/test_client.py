"""Answers out of bytes, and what is a target."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load_tests.open_loop.client import NoAnswer, Reader, Received, Target, ask, ask_all, request
from tests.load_tests.open_loop.served import Reply, serving

BODY = b'{"predictions":[[0.25]]}'
PLAIN = b"HTTP/1.1 200 OK\r\nX-First: 1\r\nCONTENT-LENGTH:  24\r\n\r\n" + BODY
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"A;name=value\r\n" + BODY[:10] + b"\r\n0e\r\n" + BODY[10:] + b"\r\n0\r\nX-Last: 1\r\n\r\n"
)


@given(st.sampled_from([PLAIN, CHUNKED]), st.data())
def test_an_answer_is_the_same_in_whatever_pieces_it_comes(answer: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(answer) - 1))))
    reader, told = Reader(), []
    for _ in range(2):
        told += [reader.feed(answer[begin:end]) for begin, end in pairwise([0, *cuts, len(answer)])]
    found = [each for each in told if each]
    assert [(each.status, each.body, each.closes) for each in found] == [(200, BODY, False)] * 2
    assert told[-1] is found[-1]


@pytest.mark.parametrize("header", [b"Connection: close", b"connection:close"])
def test_an_answer_says_whether_its_connection_ends(header: bytes) -> None:
    head = b"HTTP/1.1 503 Busy\r\n" + header + b"\r\nContent-Length: 0\r\n\r\n"
    assert Reader().feed(head) == Received(503, head, b"", closes=True)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", "neither Content-Length nor chunks"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", "without their lengths"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "no answer in HTTP"),
    ],
)
def test_what_cannot_be_read_is_no_answer(answer: bytes, why: str) -> None:
    with pytest.raises(NoAnswer, match=why):
        Reader().feed(answer)


@pytest.mark.parametrize(
    ("url", "target", "authority"),
    [
        ("http://127.0.0.1:3000", Target("127.0.0.1", 3000), "127.0.0.1:3000"),
        ("http://127.0.0.1:3000/", Target("127.0.0.1", 3000), "127.0.0.1:3000"),
        ("http://models.example/fraud", Target("models.example", 80, "/fraud"), "models.example:80"),
        ("http://[::1]:3000", Target("::1", 3000), "[::1]:3000"),
    ],
)
def test_a_url_says_host_port_and_prefix(url: str, target: Target, authority: str) -> None:
    assert Target.parse(url) == target
    assert target.authority == authority


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://models.example", "speaks no TLS"),
        ("ftp://models.example", "no URL such as"),
        ("http://", "no URL such as"),
        ("localhost:3000", "no URL such as"),
        ("http://localhost:99999", "out of range"),
        ("http://localhost:3000/?a=b", "no URL such as"),
    ],
)
def test_what_is_no_target_is_refused_in_words(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Target.parse(url)


def test_answers_come_in_the_order_of_their_requests() -> None:
    with serving(lambda _, body: Reply(200, body)) as server:
        answers = asyncio.run(ask_all(server.port, [request(b"%d" % number) for number in range(20)], at_once=4))
        alone = ask(server.port, request(b"alone"))
    assert [answer.body for answer in answers] == [b"%d" % number for number in range(20)]
    assert (alone.status, alone.body, alone.header(b"content-length")) == (200, b"alone", b"5")


def test_an_answer_that_cannot_be_read_is_told_to_who_asked() -> None:
    with serving(lambda *_: Reply(200, b"", {"Transfer-Encoding": "gzip", "Content-Length": ""})) as server:
        answer = ask(server.port, request(b"{}"))
    assert (answer.status, answer.body) == (0, b"an answer with neither Content-Length nor chunks")
