"""The report is one file that says everything, is accessible, and works in a browser."""

import base64
import hashlib
import json
import re
import shlex
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from cubie_flow import OdeSystem, solve
from cubie_flow.analysis import cli, open_results
from cubie_flow.analysis.pictures.reading import points_over
from cubie_flow.analysis.reports import charts
from cubie_flow.analysis.reports.report import write_report
from cubie_flow.cli.app import main

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)  # fmt: skip  # noqa: E501
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian package chromium)")
WORDS = [
    "system=lotka_volterra", "batch=sobol", "batch.size=200", "output.save_every=0.5",
    "controller.max_steps=75", 'study="<b>my own"',
]  # fmt: skip


class Elements(HTMLParser):
    """Collects the tags of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of which some runs fail, by a step limit that is too low."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*WORDS, "engine.progress=false", "storage.picture=false"]) == 0
    (found,) = folder.glob("outputs/**/results.zarr")
    return found.parent


@pytest.fixture(scope="module")
def html(run_folder: Path) -> str:
    assert cli.main(["report", str(run_folder)]) == 0
    return (run_folder / "report.html").read_text(encoding="utf-8")


def test_it_needs_no_other_file_and_no_network(html: str) -> None:
    page = Elements(html)
    assert not page.all("link")
    assert all(script.get("src") is None for script in page.all("script"))
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in page.all("img"))
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert str(policy).startswith("default-src 'none'")
    assert len(html) < 2_000_000


def test_only_its_own_script_and_style_are_allowed(html: str) -> None:
    """The policy names both by their hashes; a browser refuses whatever a model might bring."""
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert "unsafe" not in policy
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in unescape(policy)


def test_charts_are_bounded_whatever_the_runs() -> None:
    """A third of the runs have dose 0, so that the medians of many bins coincide."""
    rng = np.random.default_rng(0)
    dose = np.where(np.arange(60_000) % 3 == 0, 0.0, rng.uniform(0, 1, 60_000))
    peak = dose + rng.normal(0, 0.1, 60_000)
    data = xr.Dataset({"x_max": ("run", peak)}, {"dose": ("run", dose)})
    (chart,) = charts.over_quantities(data, np.arange(60_000))
    assert 60 < len(chart["x"]) <= charts.POINTS
    assert chart["x"] == sorted(set(chart["x"]))
    assert chart["x"][0] == 0
    low, median, high = (chart["lines"][i]["values"] for i in (2, 1, 0))
    assert all(a < b < c for a, b, c in zip(low, median, high, strict=True))
    assert len(json.dumps(chart)) < 20_000


@pytest.mark.parametrize("count", [1, 119, 120, 121, 100_000])
def test_points_partition_the_runs(count: int) -> None:
    values = np.random.default_rng(1).integers(0, count, 2 * count).astype(float)
    points, parts = points_over(values, 120)
    assert len(points) == len(parts) <= 120
    assert (np.diff(points) > 0).all()
    assert sorted(np.concatenate(parts)) == list(range(2 * count))


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_the_script_draws_and_reacts(tmp_path: Path) -> None:
    lines = [
        {"label": "rising", "values": [1.0, 10.0, 100.0], "colour": "#000", "dash": []},
        {"label": "with a gap", "values": [2.0, None, 4.0], "colour": "#f00", "dash": [6, 3]},
    ]
    chart = {"title": "y over time", "name": "y", "x": [0.0, 1.0, 2.0], "xLabel": "time (s)",
             "yLabel": "y: height (m)", "lines": lines}  # fmt: skip
    (tmp_path / "charts.json").write_text(json.dumps({"time": [chart]}), encoding="utf-8")
    script = Path(str(files("cubie_flow.analysis.reports").joinpath("report.js")))
    driver = Path(__file__).with_name("drive_report.js")
    command = ["node", str(driver), str(script), str(tmp_path / "charts.json")]
    done = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    seen = json.loads(done.stdout)
    assert seen["title"] == "Charts: y over time"
    assert "rising from 1 to 100" in seen["description"]
    points = [re.findall(r"([ML])([\d.]+) ([\d.]+)", line) for line in seen["lines"]]
    assert [[move for move, _, _ in line] for line in points] == [["M", "L", "L"], ["M", "M"]]
    assert [float(x) for _, x, _ in points[0]] == [76, 351, 626]
    assert seen["reading"] == "time (s) 1; rising 10; with a gap –"
    assert seen["zoomed"]
    assert seen["whole"]
    assert seen["dragged"]
    assert seen["hovered"] == ["1", "2"]
    assert seen["hidden"] == 1
    assert seen["rows"] == 4
    assert len(seen["logarithmic"]) == 1
    assert "NaN" not in str(seen)


def size_text(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def test_it_says_what_was_run_and_how_to_run_it_again(html: str, run_folder: Path) -> None:
    text = " ".join(" ".join(Elements(html).text).split())
    data = open_results(run_folder)
    counts = data.flow.summary().values["statuses"]
    assert 0 < counts["step_limit"] < 200
    assert f"step limit {counts['step_limit']}" in text
    assert "raise controller.max_steps" in text
    assert "dprey/dt = (alpha - beta*predator)*prey" in text
    assert data.attrs["system_hash"] in text
    assert data.attrs["version_zarr"] in text
    memory = data.flow.memory().attrs
    assert size_text(memory["predicted_host_bytes"]) in text
    assert size_text(memory["measured_host_bytes"]) in text
    # The command is quoted for a shell, so that it can be pasted.
    (command,) = re.findall(r'class="command"[^>]*><code>(.*?)</code>', html)
    assert shlex.split(unescape(command))[: 3 + len(WORDS)] == [
        "python", "-m", "cubie_flow", *WORDS,
    ]  # fmt: skip


def test_what_a_user_writes_is_text(html: str) -> None:
    assert "<b>my own" not in html
    assert "&lt;b&gt;my own" in html


def test_it_is_accessible(html: str) -> None:
    page = Elements(html)
    assert page.all("html")[0]["lang"] == "en"
    images = page.all("img")
    assert len(images) >= 2
    assert all(len(str(image["alt"])) > 30 for image in images)
    for chart in page.all("div"):
        if chart.get("class") == "plot":
            assert chart["role"] == "group"  # the script adds an SVG with title and description
            assert chart["aria-label"]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert len(page.all("table")) == len(page.all("caption")) >= 6
    assert all(head.get("scope") in ("col", "row") for head in page.all("th"))
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    targets = [str(link["href"]).lstrip("#") for link in page.all("a")]
    assert set(targets) <= set(ids)


def test_colours_have_contrast() -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1 for text."""
    css = files("cubie_flow.analysis.reports").joinpath("report.css").read_text(encoding="utf-8")
    for name in ("ink", "quiet", "link"):
        (colour,) = re.findall(rf"--{name}: #([0-9a-f]{{6}})", css)
        assert _contrast(colour, "ffffff") >= 4.5, name


def _contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _in_browser(path: Path, width: int, folder: Path) -> tuple[str, list[str]]:
    """Return the page as the browser has it after its scripts ran, and what its console says."""
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900",
         "--virtual-time-budget=3000", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def without_policy(html: str) -> str:
    """Return the page without its policy, which forbids the scripts that tests add."""
    return re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)


#: Chooses another chart, zooms by keyboard, and leaves what it sees in the title of the page.
PROBE = """<script>
const pick = document.querySelectorAll("select")[1];
pick.selectedIndex = 1;
pick.dispatchEvent(new Event("change"));
document.querySelectorAll("details").forEach(d => {
  d.open = true;
  d.dispatchEvent(new Event("toggle"));
});
const svg = document.querySelectorAll(".plot svg")[1];
svg.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight"}));
document.title = JSON.stringify({
  wide: document.documentElement.scrollWidth, window: window.innerWidth,
  charts: document.querySelectorAll(".plot svg > desc").length,
  label: svg.querySelector("title").textContent,
  reading: document.querySelectorAll(".reading")[1].textContent,
  rows: document.querySelectorAll("details table tbody tr").length});
</script>"""


@browser
def test_the_policy_allows_the_script(html: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(html, "utf-8")
    dom, console = _in_browser(tmp_path / "page.html", 1280, tmp_path)
    assert console == []
    assert dom.count("-description") >= 2


@browser
@pytest.mark.parametrize("width", [500, 1280])
def test_it_works_in_a_browser(width: int, html: str, tmp_path: Path) -> None:
    (tmp_path / "probe.html").write_text(
        without_policy(html).replace("</body>", PROBE + "</body>"), "utf-8"
    )
    dom, console = _in_browser(tmp_path / "probe.html", width, tmp_path)
    assert console == []
    seen = json.loads(Elements(dom[dom.index("<title>") : dom.index("</title>")]).text[0])
    assert seen["charts"] == 2
    assert "median" in seen["reading"]
    assert seen["wide"] <= seen["window"]  # nothing sticks out on a phone
    assert "predator_final over alpha" in seen["label"]
    assert seen["rows"] >= 20


@browser
def test_an_error_in_the_console_would_be_seen(html: str, tmp_path: Path) -> None:
    broken = without_policy(html).replace("ResizeObserver(", "NoSuchThing(")
    (tmp_path / "broken.html").write_text(broken, "utf-8")
    _, console = _in_browser(tmp_path / "broken.html", 1280, tmp_path)
    assert any("NoSuchThing" in line for line in console)


def test_a_result_made_in_python_has_a_report(lorenz: OdeSystem, tmp_path: Path) -> None:
    data = solve(lorenz, parameters={"rho": [20.0, 28.0]}, duration=1.0)
    text = write_report(data, tmp_path / "made.html").read_text(encoding="utf-8")
    assert "no command line is known" in text


@pytest.mark.parametrize(
    ("target", "told"), [("report.pdf", "must end in .html"), ("no_folder/r.html", "cannot be")]
)
def test_where_it_cannot_go(
    target: str, told: str, run_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["report", str(run_folder), "-o", str(tmp_path / target)]) == 1
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
