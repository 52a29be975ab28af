"""A real assay-http in front of a real broker, and a client that knows nothing but HTTP."""
import http.client
import json
import re
import socket
import struct
import subprocess

from harness import BIN, PATIENCE, wait_until


class Http:
    """An assay-http process on a port of its own."""

    def __init__(self, directory, broker, options=(), host="127.0.0.1"):
        self.log_path, self.host = directory / "http.log", host
        self.command = [str(BIN / "assay-http"), "--listen", f"{host}:0", *map(str, options)]
        if "--connect" not in self.command:
            self.command += ["--data", str(broker.data)]

    def start(self, ready=True):
        self.log = open(self.log_path, "wb")
        self.process = subprocess.Popen(self.command, stderr=self.log)
        self.port = wait_until(self.find_port)
        if ready:
            wait_until(lambda: self.get("/ready")[0] == 200)
        return self

    def find_port(self):
        assert self.process.poll() is None, self.words()
        found = re.search(r"url=https?://.*:(\d+) ", self.words())
        return found and int(found.group(1))

    def words(self):
        return self.log_path.read_text(errors="replace")

    def connect(self, timeout=60):
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout * PATIENCE)

    def ask(self, method, path, body=None, headers=None):
        """Status, headers and the reply's text."""
        connection = self.connect()
        try:
            connection.request(method, path, body, headers or {})
            reply = connection.getresponse()
            return reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read().decode()
        finally:
            connection.close()

    def get(self, path, **headers):
        status, _, text = self.ask("GET", path, None, headers)
        return status, text

    def post(self, path, body, headers=None):
        """Status and the reply as JSON."""
        status, _, text = self.ask("POST", path, json.dumps(body), {"Content-Type": "application/json", **(headers or {})})
        return status, json.loads(text)

    def ok(self, path, body, **headers):
        status, reply = self.post(path, body, headers)
        assert status == 200, reply
        return reply

    def refused(self, path, body, status=400):
        """The error of a request that must fail so."""
        found, reply = self.post(path, body)
        assert found == status, reply
        error = reply["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["code"] == status, error
        return error

    def raw(self, text, timeout=20):
        """Bytes as they are, on a connection of their own; all that comes back until it is closed."""
        with socket.create_connection((self.host, self.port), timeout=timeout * PATIENCE) as s:
            s.sendall(text)
            reply = b""
            try:
                while more := s.recv(65536):
                    reply += more
            except (ConnectionResetError, TimeoutError):
                pass
            return reply

    def stop(self, timeout=20):
        self.process.terminate()
        return self.process.wait(timeout * PATIENCE)

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *_):
        code = self.stop()
        self.log.close()
        assert kind or code == 0, self.words()


def float32(x):
    """A reply's number as the float32 that it stands for."""
    return struct.unpack("<f", struct.pack("<f", x))[0]
