"""The page of ``cubie-results watch --html``: read only, on this machine, for who has its address.

The address holds a random token, and a request with any other address, or for any other host, gets
nothing. The page changes nothing and loads nothing from elsewhere.
"""

from __future__ import annotations

import base64
import secrets
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from time import monotonic
from typing import Any

from cubie_flow.analysis.watching import Look, Watcher, first_runs
from cubie_flow.errors import FlowError

HOST = "127.0.0.1"
#: Runs of the picture, jobs of the table, dots per inch, and seconds between two pictures.
RUNS, JOBS, DPI, PICTURE_SECONDS = 50_000, 200, 80, 20.0
STYLE = """
:root { color-scheme: light dark;
  --text: #1b1f24; --back: #ffffff; --soft: #57606a; --line: #d0d7de; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6edf3; --back: #0d1117; --soft: #9aa4af; --line: #3d444d; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
  margin: 0 auto; padding: 1rem; max-width: 70rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 1.5rem 0 .5rem; }
p { margin: .25rem 0; color: var(--soft); overflow-wrap: anywhere; }
progress { width: 100%; height: 1.25rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; margin: 1rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; background: #ffffff; }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
td:nth-child(3), td:nth-child(4) { white-space: nowrap; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); }
"""
SCRIPT = """
const box = document.getElementById("update"), main = document.querySelector("main");
async function look() {
  if (!box.checked) return;
  try {
    const answer = await fetch("now");
    if (!answer.ok) throw new Error();
    main.innerHTML = await answer.text();
    if (main.querySelector("[data-complete]")) clearInterval(timer);
  } catch {
    clearInterval(timer);
    document.getElementById("state").textContent = "The watch has ended.";
  }
}
const timer = setInterval(look, SECONDS * 1000);
"""


def serve(watcher: Watcher, path: str, port: int, every: float) -> None:
    """Serve the page of a study until Ctrl-C, and print its address.

    Parameters
    ----------
    watcher : Watcher
    path : str
        The store, as given.
    port : int
        0 for a free one.
    every : float
        Seconds between two looks.

    Raises
    ------
    FlowError
        If the port is in use.
    """
    server = page_server(watcher, path, port, every)
    print(f"{server.address} (Ctrl-C ends it)", flush=True)
    with server:
        server.serve_forever()


def page_server(watcher: Watcher, path: str, port: int = 0, every: float = 2.0) -> PageServer:
    """Return the server of a page, which answers once its ``serve_forever`` is called.

    Parameters
    ----------
    watcher, path, port, every
        As for `serve`.
    """
    try:
        return PageServer(Page(watcher, path, every), port)
    except OSError as error:
        raise FlowError(f"--port {port} cannot be used: {error.strerror}") from error


class PageServer(ThreadingHTTPServer):
    """A server of one page for this machine.

    Attributes
    ----------
    page : Page
    token : str
        The secret part of the address.
    """

    daemon_threads = True

    def __init__(self, page: Page, port: int) -> None:
        self.page, self.token = page, secrets.token_urlsafe(24)
        super().__init__((HOST, port), _Handler)

    @property
    def address(self) -> str:
        """The address of the page."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"


class Page:
    """The texts of the page.

    Parameters
    ----------
    watcher : Watcher
    path : str
        The store, as given.
    every : float
        Seconds between two looks.
    """

    def __init__(self, watcher: Watcher, path: str, every: float) -> None:
        self._watcher, self._path, self._every = watcher, path, every
        # Requests come in threads of their own; pictures are drawn one at a time.
        self._lock = Lock()
        self._picture, self._drawn_of, self._drawn_at = "", -1, 0.0

    def whole(self, nonce: str) -> str:
        """Return the page; `nonce` allows its style and its script."""
        script = SCRIPT.replace("SECONDS", f"{self._every:g}")
        return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>Watch: {escape(self._path)}</title>
<style nonce="{nonce}">{STYLE}</style>
</head>
<body>
<header>
<h1>{escape(self._path)}</h1>
<p><label><input type="checkbox" id="update" checked> look every {self._every:g} s</label>
<span id="state" role="status"></span></p>
</header>
<main>
{self.now()}
</main>
<script nonce="{nonce}">{script}</script>
</body>
</html>
"""

    def now(self) -> str:
        """Return the changing part of the page."""
        with self._lock:
            try:
                look = self._watcher.look()
            except FlowError as error:
                return f"<p>{escape(str(error))}</p>"
            return self._body(look)

    def _body(self, look: Look) -> str:
        facts = "".join(
            f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>"
            for name, text in self._watcher.facts(look)
        )
        mark = " data-complete" if look.complete else ""
        bar = (
            f'<progress aria-label="finished runs" value="{look.done}" max="{max(look.total, 1)}">'
            "</progress>"
        )
        return (
            f"<section{mark}>{bar}<dl>{facts}</dl></section>{_job_table(look)}{self._figure(look)}"
        )

    def _figure(self, look: Look) -> str:
        """Return the overview of the finished runs, drawn again after 20 s at the earliest."""
        if look.jobs or not look.done:
            return ""
        old = monotonic() - self._drawn_at > PICTURE_SECONDS or look.complete
        if look.done != self._drawn_of and (old or not self._picture):
            self._drawn_of = look.done
            self._picture = self._draw()
            self._drawn_at = monotonic()
        return self._picture

    def _draw(self) -> str:
        from cubie_flow.analysis.pictures import drawer

        try:
            picture = drawer("overview")(first_runs(self._path, RUNS))
            source = base64.b64encode(picture.png(DPI)).decode("ascii")
        except FlowError as error:
            return f"<p>no picture: {escape(str(error))}</p>"
        text = escape(picture.description)
        return (
            f'<figure><img alt="{text}" src="data:image/png;base64,{source}">'
            f"<figcaption>{text}</figcaption></figure>"
        )


def _job_table(look: Look) -> str:
    """Return the jobs of a multirun: those that run or failed first."""
    if not look.jobs:
        return ""
    order = sorted(look.jobs, key=lambda job: (job.complete, job.done == 0))
    rows = "".join(
        f'<tr><th scope="row">{escape(job.name)}</th><td>{escape(job.about)}</td>'
        f"<td>{job.done:,} of {job.total:,}</td><td>{job.failures:,}</td>"
        f"<td>{escape(job.note)}</td></tr>"
        for job in order[:JOBS]
    )
    more = f"<p>and {len(order) - JOBS:,} more jobs</p>" if len(order) > JOBS else ""
    heads = "".join(
        f'<th scope="col">{name}</th>' for name in ("job", "overrides", "runs", "failed", "note")
    )
    return (
        '<h2>Jobs</h2><div class="wide" role="region" tabindex="0" aria-label="Jobs"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{more}"
    )


class _Handler(BaseHTTPRequestHandler):
    """Answers two addresses: the page, and its changing part."""

    server: PageServer
    server_version, sys_version = "cubie-results", ""

    def do_GET(self) -> None:
        """Answer a request."""
        token, host = self.server.token, self.headers.get("Host", "")
        port = self.server.server_port
        known = host in (f"{HOST}:{port}", f"localhost:{port}")
        prefix, _, rest = self.path.removeprefix("/").partition("/")
        if not known or not secrets.compare_digest(prefix.encode(), token.encode()):
            self._answer(404, "there is no such page", "text/plain", "")
            return
        nonce = secrets.token_urlsafe(16)
        if rest == "":
            self._answer(200, self.server.page.whole(nonce), "text/html", nonce)
        elif rest == "now":
            self._answer(200, self.server.page.now(), "text/html", nonce)
        else:
            self._answer(404, "there is no such page", "text/plain", "")

    def _answer(self, code: int, text: str, kind: str, nonce: str) -> None:
        body = text.encode("utf-8")
        allowed = f"style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; " if nonce else ""
        self.send_response(code)
        for name, value in (
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            (
                "Content-Security-Policy",
                f"default-src 'none'; {allowed}img-src data:; connect-src 'self'; "
                "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            ),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Print nothing: the address of a request holds the token."""
