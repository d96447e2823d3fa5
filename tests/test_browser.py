"""What a reader sees: report and site on a phone and a desk, and notebooks in JupyterLab."""
import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time

import nbformat
import pytest
from browser import Tab, a_tab, needs_browser

from mfdan.core.files import project_root
from mfdan.results.products import notebook_folder

pytestmark = needs_browser
ROOT = project_root()
BROKEN = "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)"
WIDE = """width => [...document.querySelectorAll('body *')].filter(e => {
  let inside = false;
  for (let p = e.parentElement; p; p = p.parentElement)
    inside ||= ['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX);
  return !inside && e.getBoundingClientRect().right > width + 1;
}).map(e => e.outerHTML.slice(0, 80))"""  # what scrolls in a box of its own may be wider
WIDTHS = (390, 1280)


def faults(tab: Tab, width: int) -> list:
    "Broken pictures, what is wider than the page, and what the browser complains of."
    return [*tab.page.evaluate(BROKEN), *tab.page.evaluate(WIDE, width), *tab.complaints]


# -- the report ---------------------------------------------------------------------------------

@pytest.mark.parametrize("width", WIDTHS)
def test_the_report_is_whole_quiet_and_fits(width):
    report = ROOT / "paper_figures/synthetic/quick-quick/report.html"
    with a_tab(report.as_uri(), width) as tab:
        assert tab.page.evaluate("document.images.length") > 5
        assert faults(tab, width) == []
        assert {url.split(":")[0] for url in tab.requests} <= {"file", "data"}


INK = """() => [document.body, document.querySelector('.tile b'), document.querySelector('nav a')]
  .map(e => { let p = e; while (getComputedStyle(p).backgroundColor == 'rgba(0, 0, 0, 0)')
                p = p.parentElement;
              return [getComputedStyle(e).color, getComputedStyle(p).backgroundColor] })"""


def contrast(pair: list[str]) -> float:
    "WCAG's, of two colours as a browser writes them."
    lights = []
    for colour in pair:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        lights.append(sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear)))
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def test_the_report_can_be_read_by_day_and_by_night():
    report = ROOT / "paper_figures/synthetic/quick-quick/report.html"
    with a_tab(report.as_uri()) as tab:
        pages = []
        for scheme in ("light", "dark"):
            tab.page.emulate_media(color_scheme=scheme)
            pairs = tab.page.evaluate(INK)
            assert min(map(contrast, pairs)) > 4.5, (scheme, pairs)
            pages.append(pairs[0][1])
        assert pages[0] == "rgb(255, 255, 255)" != pages[1]


def test_the_first_screen_says_it_all():
    "At a desk: what was run, five numbers, a picture, what follows, before anything is scrolled."
    report = ROOT / "paper_figures/synthetic/quick-quick/report.html"
    with a_tab(report.as_uri()) as tab:
        seen = """() => ['h1', '.tile:nth-child(5)', '.two .plot', 'header ul:last-of-type']
          .map(s => document.querySelector(s)?.getBoundingClientRect().bottom ?? 9999)"""
        assert max(tab.page.evaluate(seen)) < 900


def test_a_wide_table_keeps_its_first_column_on_a_phone():
    report = ROOT / "paper_figures/synthetic/quick-quick/report.html"
    with a_tab(report.as_uri(), 390) as tab:
        moved = tab.page.evaluate("""() => { const box = [...document.querySelectorAll('.wide')]
            .find(e => e.scrollWidth > e.clientWidth + 50);
          const first = box.querySelector('tbody tr').firstElementChild;
          const before = first.getBoundingClientRect().left;
          box.scrollLeft = 50;
          return [box.scrollLeft, first.getBoundingClientRect().left - before] }""")
        assert moved == [50, 0]


def test_a_broken_page_is_noticed(tmp_path):
    "The checks above can fail."
    file = tmp_path / "page.html"
    file.write_text("<img src='data:image/png;base64,AAAA' alt='torn'><img src='http://127.0.0.1:9'>"
                    "<div style='width:3000px'>wide</div><script>null.x</script>")
    with a_tab(file.as_uri(), 390) as tab:
        assert "torn" in tab.page.evaluate(BROKEN) and tab.page.evaluate(WIDE, 390)
        assert len(tab.complaints) >= 2 and any(url.startswith("http:") for url in tab.requests)
    assert contrast(["rgb(255, 255, 255)", "rgb(0, 0, 0)"]) == pytest.approx(21)


# -- the site -----------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def site():
    "The site, as a server gives it."
    folder = ROOT / "_docs"
    if not (folder / "index.html").exists(): pytest.skip("no site here: make docs")

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_): pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Silent, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("width", WIDTHS)
def test_the_site_is_whole_and_its_search_finds(site, width):
    for name in ("index", "one_page", "network/03_attention"):
        with a_tab(f"{site}/{name}.html", width) as tab:
            assert tab.page.evaluate(BROKEN) == [] and tab.complaints == []
            assert tab.page.locator("link[rel~=icon]").count()  # or some browsers ask in vain
    with a_tab(f"{site}/search.html?q=dropkey", width) as tab:
        tab.page.wait_for_selector("ul.search li a")
        assert "dropkey" in " ".join(tab.page.locator("ul.search a").all_inner_texts()).lower()
        assert {url.split("/")[2] for url in tab.requests} == {site.split("/")[2]}


# -- JupyterLab ---------------------------------------------------------------------------------

TOURS = {"one_page": "nbs/one_page.ipynb", "tour": "nbs/video/15_tour.ipynb"}


@pytest.fixture
def lab(road, tmp_path):
    "JupyterLab on two tours, and on a paper notebook whose defaults name the road's cache."
    nb = nbformat.read(notebook_folder() / "table_3.ipynb", as_version=4)
    for cell in nb.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source = cell.source.replace('profile: str = "quick"', 'profile: str = "smoke"')
            cell.source = cell.source.replace("paper_figures/local", str(tmp_path / "out"))
    nbformat.write(nb, tmp_path / "table_3.ipynb")
    for name, file in TOURS.items():
        tour = nbformat.read(ROOT / file, as_version=4)
        for cell in tour.cells:
            if cell.cell_type == "code": cell.outputs, cell.execution_count = [], None
        nbformat.write(tour, tmp_path / f"{name}.ipynb")
    env = {**os.environ, "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
           "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"), "HOME": str(tmp_path),
           "JUPYTER_DATA_DIR": str(tmp_path / "data"), "IPYTHONDIR": str(tmp_path / "ipython")}
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0",
         f"--ServerApp.root_dir={tmp_path}", "--IdentityProvider.token=t",
         "--LabApp.news_url=None", "--LabApp.expose_app_in_browser=True"], env=env, cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 120
        while not (found := list((tmp_path / "runtime").glob("jpserver-*.json"))):
            assert server.poll() is None and time.monotonic() < end, "JupyterLab does not start"
            time.sleep(0.2)
        yield f"{json.loads(found[0].read_text())['url']}lab/tree/{{}}?token=t"
    finally:
        server.terminate()
        server.wait(30)


NOTEBOOK = "[...window.jupyterapp.shell.widgets('main')].find(w => w.content?.model?.cells)"
READY = f"""() => {{
  const notebook = window.jupyterapp?.shell && {NOTEBOOK};
  const kernel = notebook?.sessionContext.session?.kernel;
  return kernel?.status == 'idle' && kernel.connectionStatus == 'connected'; }}"""
BEGUN = f"""() => [...{NOTEBOOK}.content.node.querySelectorAll('.jp-InputPrompt')]
  .some(e => /\\[(\\*|\\d+)\\]/.test(e.textContent))"""
DONE = f"""() => [...{NOTEBOOK}.content.model.cells].every(
  c => c.type != 'code' || !c.sharedModel.source.trim() || c.executionCount)
  && {NOTEBOOK}.sessionContext.session.kernel.status == 'idle'"""


def run_all(tab: Tab, minutes: float = 5) -> None:
    "What Run > Run All Cells does, when the kernel is ready."
    tab.page.wait_for_function(READY, timeout=120_000)
    tab.page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells'); }")
    tab.page.wait_for_function(BEGUN, timeout=60_000)
    tab.page.wait_for_function(DONE, timeout=60_000 * minutes)
    tab.page.evaluate(f"{NOTEBOOK}.context.save()")


def walk_through(tab: Tab) -> None:
    "Move the slider by a key; another frame is drawn."
    title = """() => document.querySelector('.jupyter-widgets .jp-OutputArea img')?.src"""
    tab.page.wait_for_function(title, timeout=60_000)
    before = tab.page.evaluate(title)
    tab.page.locator(".jupyter-widgets .noUi-handle").first.press("ArrowRight")
    tab.page.wait_for_function(f"before => ({title})() != before", arg=before, timeout=60_000)


@pytest.mark.parametrize("name", ["table_3", *TOURS])
def test_run_all_in_jupyterlab(lab, tmp_path, name):
    "Judged by the notebook that was saved, and by the console."
    with a_tab(lab.format(f"{name}.ipynb")) as tab:
        run_all(tab)
        if name == "tour": walk_through(tab)
        tab.page.screenshot(path=tmp_path / "lab.png")
        tab.page.set_viewport_size({"width": 390, "height": 800})  # it is there on a phone, too
        tab.page.evaluate("() => jupyterapp.shell.collapseLeft()")
        tab.page.wait_for_function(
            f"() => {NOTEBOOK}.content.node.getBoundingClientRect().width > 100", timeout=30_000)
        assert tab.complaints == []
    cells = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = {output.output_type for cell in code for output in cell.outputs}
    assert kinds & {"execute_result", "display_data"} and "error" not in kinds
    if name == "table_3": assert (tmp_path / "out").is_dir()
