"""ZMTP by hand, over a bare socket: what a peer may send that no ZeroMQ library would."""
import socket
import struct

MORE, LONG, COMMAND = 1, 2, 4
SIGNATURE = b"\xff" + bytes(7) + b"\x01\x7f"


def frame(body: bytes, flags: int = 0) -> bytes:
    if len(body) > 255:
        return struct.pack(">BQ", flags | LONG, len(body)) + body
    return struct.pack(">BB", flags, len(body)) + body


def ready(socket_type=b"DEALER", **properties) -> bytes:
    body = b"\x05READY"
    for name, value in [("Socket-Type", socket_type), *properties.items()]:
        body += struct.pack(">B", len(name)) + name.encode() + struct.pack(">I", len(value)) + value
    return frame(body, COMMAND)


def greeting(version=3, minor=1) -> bytes:
    return SIGNATURE + bytes([version, minor]) + b"NULL".ljust(20, b"\0") + bytes(32)


class Peer:
    """A connection to an ipc endpoint that has said hello as a DEALER, or whatever `hello` is. With answer, the broker's own
    hello has come: until then libzmq takes whatever comes for a part of the handshake."""

    def __init__(self, endpoint, hello=greeting() + ready(), pieces=0, answer=64):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(endpoint.removeprefix("ipc://"))
        for at in range(0, len(hello), pieces or len(hello)):
            try:
                self.socket.sendall(hello[at:at + (pieces or len(hello))])
            except (BrokenPipeError, ConnectionResetError):
                break  # the broker has closed it already; what is read then shows that
        self.exactly(answer)
        self.frames = self._frames()
        if answer:
            next(self.frames)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def exactly(self, n):
        data = b""
        while len(data) < n:
            piece = self.socket.recv(n - len(data))
            if not piece:
                raise ConnectionResetError
            data += piece
        return data

    def _frames(self):
        """(flags, body) of what comes."""
        while True:
            flags = self.exactly(1)[0]
            (length,) = struct.unpack(">Q", self.exactly(8)) if flags & LONG else self.exactly(1)
            yield flags, self.exactly(length)

    def ask(self, body: bytes, pieces=0) -> bytes:
        """One request and its reply."""
        data = frame(body)
        for at in range(0, len(data), pieces or len(data)):
            self.socket.sendall(data[at:at + (pieces or len(data))])
        return self.body()

    def body(self) -> bytes:
        """The next frame of a message: the broker sends heartbeats between them."""
        return next(body for flags, body in self.frames if not flags & COMMAND)

    def has_ended(self):
        """Has the broker ended it by now? What it sends meanwhile is thrown away."""
        self.socket.setblocking(False)
        try:
            while self.socket.recv(1 << 16):
                pass
            return True
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
        finally:
            self.socket.settimeout(30)

    def is_closed(self):
        """Has the broker ended it? Waits for that."""
        try:
            while self.socket.recv(1 << 16):
                pass
            return True
        except ConnectionError:
            return True
        except TimeoutError:
            return False
