"""What a peer does to the broker, or to another peer: messages without end, routing ids of its choosing, ZMTP that no library sends."""
import concurrent.futures
import contextlib
import os
import pathlib
import signal
import struct
import time

import msgpack
import pytest
import zmq
import zmtp
from harness import BIN, PATIENCE, Broker, random_key, wait_until

HELLO = msgpack.packb({"v": 1, "op": "hello"})
LIMIT = 1 << 20


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A broker that takes messages of a megabyte."""
    with Broker(tmp_path_factory.mktemp("p") / "d", options=["--max-message-bytes", LIMIT]) as broker:
        yield broker


def memory_kb(broker, which="VmRSS"):
    status = pathlib.Path(f"/proc/{broker.process.pid}/status").read_text()
    return int(status.split(which + ":")[1].split()[0])


def flood(peer, data, megabytes):
    """Send until the connection ends; True when it does within so many megabytes."""
    try:
        for _ in range(megabytes * (1 << 20) // len(data)):
            peer.socket.sendall(data)
    except ConnectionError:
        return True
    return peer.is_closed()


FLOODS = {
    "large frames": zmtp.frame(bytes(1 << 16), zmtp.MORE),
    "small frames": zmtp.frame(b"x", zmtp.MORE) * 10000,
    "empty frames": zmtp.frame(b"", zmtp.MORE) * 10000,
    "heartbeats between": (zmtp.frame(bytes(1000), zmtp.MORE) + zmtp.frame(b"\x04PING\0\0", zmtp.COMMAND)) * 100,
    "commands with more": zmtp.frame(b"\x09SUBSCRIBE" + bytes(1000), zmtp.COMMAND | zmtp.MORE) * 100,
    "subscriptions between": (zmtp.frame(bytes(1000), zmtp.MORE) + zmtp.frame(b"\x09SUBSCRIBEx", zmtp.COMMAND | zmtp.MORE)) * 100,
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_message_without_end(small, kind):
    """The connection is ended and its memory given back; others are served meanwhile and after."""
    before = memory_kb(small)
    with small.client() as client, zmtp.Peer(small.endpoint) as peer:
        assert flood(peer, FLOODS[kind], megabytes=64), "the broker took all of it"
        assert client.call("hello")["ok"]
    assert memory_kb(small) - before < 20_000 or "asan" in BIN.parts
    assert small.process.poll() is None


def begin_message(small, sent=LIMIT - 1000):
    """A peer that promises a megabyte, sends so much of it if that is read, and no more."""
    peer = zmtp.Peer(small.endpoint)
    peer.socket.setblocking(False)
    peer.socket.send(zmtp.frame(bytes(LIMIT))[:9])
    deadline = time.monotonic() + 0.2
    while sent > 0 and time.monotonic() < deadline:
        try:
            sent -= peer.socket.send(bytes(min(sent, 1 << 16)))
        except BlockingIOError:
            time.sleep(0.01)
    return peer


def test_many_messages_at_once_wait_for_room(tmp_path):
    """Of messages that come faster than they are taken some are let in; all are answered."""
    limit, peers, each = 8 << 20, 3, 12
    rows = [{"text": "as long as the rows of one message are " * 30}] * 6800
    with Broker(tmp_path / "d", options=["--max-message-bytes", limit]) as broker, contextlib.ExitStack() as stack:
        before = memory_kb(broker)
        many = [stack.enter_context(zmtp.Peer(broker.endpoint)) for _ in range(peers)]
        body = msgpack.packb({"v": 1, "op": "submit", "key": "k", "chunk": -1, "rows": rows})
        assert limit * 0.9 < len(body) <= limit

        def send(peer):
            peer.socket.settimeout(60 * PATIENCE)
            for _ in range(each):
                peer.socket.sendall(zmtp.frame(body))

        with concurrent.futures.ThreadPoolExecutor(peers) as pool, broker.client() as client:
            sent = [pool.submit(send, peer) for peer in many]
            assert client.call("info")["received_bytes"] < 5 * limit + (20 << 20)
            for peer in many:
                for _ in range(each):
                    assert "chunk" in next(msgpack.unpackb(body)["err"]["field"] for flags, body in peer.frames if not flags & zmtp.COMMAND)
            for future in sent:
                future.result()
            wait_until(lambda: client.call("info")["received_bytes"] == 0)
        assert memory_kb(broker, "VmHWM") - before < 120_000 or "asan" in BIN.parts


def test_messages_that_do_not_come_whole(small):
    """Those that promise much have no more memory than there is room; small requests go on beside them."""
    before = memory_kb(small)
    with small.client() as client, contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.callback(begin_message(small).socket.close)
        assert 3 * LIMIT < client.call("info")["received_bytes"] < 6 * LIMIT
        assert memory_kb(small) - before < 20_000 or "asan" in BIN.parts
        assert client.call("hello")["ok"]
    with small.client() as client:
        wait_until(lambda: client.call("info")["received_bytes"] == 0)


def test_who_keeps_room_from_others_is_ended(small):
    """A large message waits for room no longer than others are given to send theirs."""
    key, row = random_key(), {"ids": bytes(4 * 100)}
    with small.client() as client, contextlib.ExitStack() as stack:
        peers = [begin_message(small) for _ in range(4)]
        for peer in peers:
            stack.callback(peer.socket.close)
        assert not any(peer.has_ended() for peer in peers)
        client.submit(key, [row] * (LIMIT * 9 // 10 // len(msgpack.packb(row))))
        assert any(peer.has_ended() for peer in peers)


def test_replies_that_nobody_reads(small):
    """Who asks for much and does not read is ended, with what was kept for it; who reads gets all of as much."""
    key, row = random_key(), {"id": "x" * 200, "ids": [1]}
    with small.client() as client:
        client.submit(key, [row] * 3000)
        client.results(key)
        ask = zmtp.frame(msgpack.packb({"v": 1, "op": "results", "job": key, "limit": 1000}))
        before = memory_kb(small)
        with zmtp.Peer(small.endpoint) as reader, zmtp.Peer(small.endpoint) as other:
            other.socket.sendall(ask * 200)
            for _ in range(200):
                reader.socket.sendall(ask)
                assert len(next(body for flags, body in reader.frames if not flags & zmtp.COMMAND)) > 200_000
            assert other.is_closed()
        wait_until(lambda: memory_kb(small) - before < 25_000 or "asan" in BIN.parts)


def test_what_libzmq_refuses_takes_no_room(small):
    """Messages behind a handshake that fails were counted when they came, and nobody will take them."""
    for _ in range(5):
        with zmtp.Peer(small.endpoint, zmtp.greeting() + zmtp.ready(b"PUB") + zmtp.frame(b"x") * 2000, answer=0) as peer:
            assert peer.is_closed()
    with small.client() as client:
        wait_until(lambda: client.call("info")["received_bytes"] == 0)


def test_a_subscription_without_end(small):
    events = f"ipc://{small.data}/events.sock"
    for data in (zmtp.frame(b"\x01" + bytes(1000), zmtp.MORE), zmtp.frame(b"\x01" + bytes(1 << 20))):
        with zmtp.Peer(events, zmtp.greeting() + zmtp.ready(b"SUB")) as peer:
            assert flood(peer, data, megabytes=64)


def test_subscriptions_without_number(small):
    """libzmq keeps topics as long as their connection, and whatever it is that asks for the next one."""
    events = f"ipc://{small.data}/events.sock"
    topics = [bytes([1]) + struct.pack(">I", i) * 700 for i in range(400)]
    for data in (b"".join(zmtp.frame(t) for t in topics), b"".join(zmtp.frame(b"\x09SUBSCRIBE" + t, zmtp.COMMAND) for t in topics)):
        with zmtp.Peer(events, zmtp.greeting() + zmtp.ready(b"SUB")) as peer:
            assert flood(peer, data, megabytes=4)


def test_subscriptions_of_many(small):
    """Of those who are each below the limit, some that have the most are ended; who has few topics hears its events."""
    events, key = f"ipc://{small.data}/events.sock", random_key()
    topics = b"".join(zmtp.frame(b"\x01" + struct.pack(">I", i) * 234) for i in range(1000))
    context, many = zmq.Context(), []
    with context.socket(zmq.SUB) as few, small.client() as client:
        few.linger = 0
        few.subscribe(key)
        few.connect(events)
        for _ in range(12):
            many.append(zmtp.Peer(events, zmtp.greeting() + zmtp.ready(b"SUB")))
            try:
                many[-1].socket.sendall(topics)
            except ConnectionError:  # of several that have as much, any one is ended
                pass
        wait_until(lambda: len([peer for peer in many if peer.has_ended()]) >= 4)
        assert len([peer for peer in many if peer.has_ended()]) < 8
        client.submit(key, [{"ids": [1]}])
        assert few.poll(30000 * PATIENCE) and few.recv_multipart()[0] == key.encode()
    context.term()
    for peer in many:
        peer.socket.close()


def test_it_is_logged(small):
    with zmtp.Peer(small.endpoint) as peer:
        assert flood(peer, FLOODS["large frames"], megabytes=64)
    wait_until(lambda: "event=connections_ended" in (small.data / "assayd.log").read_text())


PING = zmtp.frame(b"\x04PING\0\0", zmtp.COMMAND)


def test_who_leaves_before_all_is_taken(small):
    """More requests than libzmq keeps of one connection, which goes at once: nothing breaks. Replies that it left unread
    reset the connection, so what the broker has not read by then is lost."""
    rows = [{"id": "x" * 100, "ids": [i + 1]} for i in range(200)]
    with small.client() as client:
        client.call("score", key="leaves", rows=rows)
        before = client.call("info")["counters"]["requests"]
        request = zmtp.frame(msgpack.packb({"v": 1, "op": "results", "job": "leaves"}))
        with zmtp.Peer(small.endpoint) as peer:
            peer.socket.sendall((request + PING) * 2000)
        wait_until(lambda: client.call("info")["counters"]["requests"] - before > 1, 30)
        wait_until(lambda: client.call("info")["received_bytes"] < 100_000, 30)


def test_who_leaves_before_all_topics_are_taken(small):
    """The same of subscriptions, which are taken when there is an event."""
    topics = b"".join(zmtp.frame(b"\x01%d" % i) + PING for i in range(4000))
    with small.client() as client:
        with zmtp.Peer(small.endpoint.replace("broker", "events"), zmtp.greeting() + zmtp.ready(b"SUB")) as peer:
            peer.socket.sendall(topics)
        for i in range(20):
            client.call("score", rows=[{"ids": [i]}])
        assert client.call("hello")["ok"]


def test_many_messages_are_no_flood(small):
    """Ten times the limit on one connection, in messages that end."""
    padded = zmtp.frame(bytes(200), zmtp.MORE) * 2 + zmtp.frame(b"", zmtp.MORE) + zmtp.frame(b"\xc0" * (LIMIT // 2))
    with zmtp.Peer(small.endpoint) as peer:
        for _ in range(20):
            peer.socket.sendall(padded)
            bodies = [peer.body() for _ in range(4)]
            assert bodies[:3] == [bytes(200), bytes(200), b""] and not msgpack.unpackb(bodies[3])["ok"]
        assert msgpack.unpackb(peer.ask(HELLO))["ok"]


def test_the_largest_message_is_taken(small):
    key, row = random_key(), {"ids": bytes(4 * 100)}
    rows = [row] * ((LIMIT - 200) // len(msgpack.packb(row)))
    body = msgpack.packb({"v": 1, "op": "submit", "key": key, "chunk": 0, "rows": rows, "seal": True})
    assert LIMIT - 1000 < len(body) <= LIMIT
    context = zmq.Context()
    with context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(small.endpoint)
        socket.send_multipart([b"a" * 200, b"b" * 200, b"", body])
        assert socket.poll(30000 * PATIENCE)
        *envelope, reply = socket.recv_multipart()
        assert envelope == [b"a" * 200, b"b" * 200, b""] and msgpack.unpackb(reply)["ok"]
    context.term()


def dealer(context, endpoint, name):
    socket = context.socket(zmq.DEALER)
    socket.linger, socket.routing_id = 0, name
    socket.connect(endpoint)
    return socket


def test_a_reply_goes_to_who_asked(small):
    """Whoever takes a departed client's routing id does not hear the reply to its request."""
    context = zmq.Context()
    with small.client() as client:
        client.submit("secret", [{"id": "mine", "ids": [1, 2, 3]}], seal=False)
        client.results_of_one = client.call("results", job="secret", wait_ms=10000)
        first = dealer(context, small.endpoint, b"me")
        # answered when the next row is there
        first.send(msgpack.packb({"v": 1, "op": "results", "job": "secret", "after": client.results_of_one["next"], "wait_ms": 60000}))
        first.send(HELLO)
        assert first.poll(30000 * PATIENCE) and msgpack.unpackb(first.recv())["ok"]
        first.close()
        second = dealer(context, small.endpoint, b"me")
        deadline = time.monotonic() + 30 * PATIENCE
        second.send(HELLO)
        while not second.poll(200):  # its name is the first one's as long as that has not gone
            assert time.monotonic() < deadline
            second.close()
            second = dealer(context, small.endpoint, b"me")
            second.send(HELLO)
        assert "version" in msgpack.unpackb(second.recv())
        client.submit("secret", [{"id": "mine", "ids": [4, 5, 6]}], chunk=1)
        assert [row["i"] for row in client.results("secret")] == [0, 1]
        second.send(HELLO)
        heard = []
        while not heard or "version" not in heard[-1]:
            assert second.poll(30000 * PATIENCE)
            heard.append(msgpack.unpackb(second.recv()))
        assert len(heard) == 1, heard
        second.close()
    context.term()


def test_two_clients_of_one_name_are_both_served(small):
    context = zmq.Context()
    sockets = [dealer(context, small.endpoint, b"twice") for _ in range(2)]
    for turn in range(3):
        for number, socket in enumerate(sockets):
            socket.send(msgpack.packb({"v": 1, "op": "hello", "id": 10 * turn + number}))
        for number, socket in enumerate(sockets):
            assert socket.poll(30000 * PATIENCE)
            assert msgpack.unpackb(socket.recv())["id"] == 10 * turn + number
    for socket in sockets:
        socket.close()
    context.term()


@pytest.mark.parametrize("pieces", [0, 1, 7])
def test_a_name_in_pieces(small, pieces):
    """However the bytes of the handshake come."""
    hello = zmtp.greeting() + zmtp.ready(Identity=b"a name", **{"X-More": b"y" * 300})
    with zmtp.Peer(small.endpoint, hello, pieces) as one, zmtp.Peer(small.endpoint, hello, pieces) as two:
        for peer in (one, two, one):
            assert msgpack.unpackb(peer.ask(HELLO, pieces))["ok"]


@pytest.mark.parametrize("pieces", [0, 1])
def test_zmtp_2(small, pieces):
    """libzmq 3.2, whose routing id is a frame of its own."""
    hello = zmtp.SIGNATURE + b"\x01\x05" + zmtp.frame(b"a name")
    with zmtp.Peer(small.endpoint, hello, pieces, 12) as one, zmtp.Peer(small.endpoint, hello, pieces, 12) as two:
        for peer in (one, two, one):
            assert msgpack.unpackb(peer.ask(HELLO, pieces))["ok"]


@pytest.mark.parametrize("hello", [b"\x01\x00" * 100, b"\x06\x00hello" * 100, zmtp.SIGNATURE + b"\x00\x05" * 20,
                                   b"GET / HTTP/1.1\r\n\r\n" * 4, zmtp.greeting() + zmtp.frame(bytes(1 << 17), zmtp.COMMAND)],
                         ids=["ZMTP 1", "ZMTP 1 with a name", "revision 0", "HTTP", "a large handshake"])
def test_what_is_not_spoken_here(small, hello):
    with zmtp.Peer(small.endpoint, hello, answer=0) as peer:
        assert peer.is_closed()
    with small.client() as client:
        assert client.call("hello")["ok"]


def test_one_connection_has_not_all_the_waiting(small):
    """20,000 requests of one may wait. Those of a connection that has gone do not."""
    key = random_key()
    with small.client() as client:
        client.submit(key, [{"ids": [1]}], seal=False)
        client.call("pause", job=key)
        ask = zmtp.frame(msgpack.packb({"v": 1, "op": "results", "job": key, "wait_ms": 60000, "after": 1}))
        with zmtp.Peer(small.endpoint) as peer:
            peer.socket.sendall(ask * 20000)
            full = msgpack.unpackb(peer.ask(msgpack.packb({"v": 1, "op": "results", "job": key, "wait_ms": 60000, "after": 1})))
            assert full["err"]["code"] == "queue_full" and "of one connection" in full["err"]["message"]
            assert msgpack.unpackb(peer.ask(HELLO))["ok"]
            assert client.call("score", rows=[{"ids": [1, 2, 3]}])["rows"][0]["error"] is None
            assert client.call("info")["waiting"] == 20000
        wait_until(lambda: client.call("info")["waiting"] == 0)
        client.call("cancel", job=key)


def test_ranks_start_anew_where_clients_have_all_connections(directory):
    """And more wait to be let in: they take each descriptor that a rank leaves."""
    broker = Broker(directory)
    broker.command = ["prlimit", "--nofile=200:200", *broker.command]
    context = zmq.Context()
    with broker, broker.client() as client:
        assert len(client.submit("a", [{"ids": [1, 2]}])) and len(client.results("a")) == 1
        crowd = [context.socket(zmq.DEALER) for _ in range(300)]
        for socket in crowd:
            socket.linger = 0
            socket.connect(broker.endpoint)
        wait_until(lambda: "event=connections_full" in broker.words())
        for pid in broker.worker_pids():
            os.kill(pid, signal.SIGKILL)
        client.submit("b", [{"ids": [3, 4]}])
        assert len(client.results("b", timeout=30)) == 1
        for socket in crowd:
            socket.close()
    context.term()
