"""Pictures of the page at /, to look at: wide and narrow, light and dark, a job open, with the buttons of an administrator.

    make page-shots [OUT=build/page]        needs chromium; exits with 1 where names became markup
"""
import argparse
import http.server
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import MODELS, Broker  # noqa: E402
from http_harness import Http  # noqa: E402

KEY = "administrator-0123456789"
MARKUP = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
VIEWS = {"wide": ("1280,1700", "", []), "dark": ("1280,1700", "#job=1", ["--force-dark-mode"]), "phone": ("500,2600", "#job=2", []), "job": ("1280,1700", "#job=2", [])}


def fill(client):
    r = random.Random(3)
    rows = lambda n, l=20: [{"id": i, "ids": [r.randrange(5, 300) for _ in range(l)]} for i in range(n)]  # noqa: E731
    client.submit("nightly", rows(900))
    client.submit(MARKUP, rows(60) + [{"id": MARKUP, "ids": [10**7]}, {"id": "none", "ids": []}])
    client.submit("best-of-4", [{"prompt": f"{i} + 4 = ?", "responses": [str(i + 4), str(i + 5), "no", "4"]} for i in range(60)])
    for key in ("nightly", MARKUP, "best-of-4"):
        client.results(key)
    client.submit("paused", rows(500), priority=-10)
    client.call("pause", job="paused")
    client.submit("cancelled", rows(80))
    client.call("cancel", job="cancelled")
    client.submit("under way", rows(4000, 60), seal=False)


def forward(port):
    """A server that asks with the administrator's key, since a picture's browser types none."""
    class Forward(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            request = urllib.request.Request(f"http://127.0.0.1:{port}{self.path}", headers={"Authorization": f"Bearer {KEY}"})
            try:
                reply = urllib.request.urlopen(request)
            except urllib.error.HTTPError as e:
                reply = e
            body = reply.read()
            self.send_response(reply.status)
            for name in ("Content-Type", "Content-Security-Policy", "X-Content-Type-Options"):
                if reply.headers[name]:
                    self.send_header(name, reply.headers[name])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Forward)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def browse(profile, url, *options):
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}", "--virtual-time-budget=6000", *options, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=pathlib.Path)
    out = parser.parse_args().out
    if not shutil.which("chromium"):
        sys.exit("page-shots: expected chromium (Debian: chromium), found none")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="assay-") as folder:
        directory = pathlib.Path(folder)
        keys = directory / "keys"
        keys.write_text(f"shots {KEY} admin\n")
        keys.chmod(0o600)
        with Broker(directory / "d", model=MODELS / "demo-reward") as broker, broker.client() as client:
            server = Http(directory, broker, ["--api-keys", keys]).start()
            fill(client)
            at = f"http://127.0.0.1:{forward(server.port)}/"
            for name, (size, where, options) in VIEWS.items():
                browse(directory / "profile", at + where, f"--window-size={size}", f"--screenshot={out / name}.png", *options)
                print(out / f"{name}.png")
            seen = browse(directory / "profile", at + "#job=2", "--dump-dom")
            server.stop()
    if "<img" in seen or "<title>Assay</title>" not in seen or "&lt;img src=x onerror" not in seen or "row 60" not in seen:
        sys.exit("page-shots: a name became markup, or is not shown")


main()
