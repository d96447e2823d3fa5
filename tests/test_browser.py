"""What a reader sees: the report on a phone and a desk, and a paper notebook run in JupyterLab."""
import json
import os
import subprocess
import sys
import time

import nbformat
import pytest
from browser import Page, needs_browser, wait_for

from mfdan.core.files import project_root
from mfdan.results.products import notebook_folder

BROKEN = "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)"
WIDE = """[...document.querySelectorAll('body *')].filter(e => {
  let inside = false;
  for (let p = e.parentElement; p; p = p.parentElement)
    inside ||= ['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX);
  return !inside && e.getBoundingClientRect().right > %d + 1;
}).map(e => e.outerHTML.slice(0, 80))"""  # what scrolls in a box of its own may be wider


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_report_is_whole_quiet_and_fits(width, tmp_path):
    report = project_root() / "paper_figures/synthetic/quick-quick/report.html"
    with Page() as page:
        page.open(report.as_uri(), width)
        page.screenshot(tmp_path / "report.png")
        assert page.evaluate("document.images.length") > 5
        assert page.evaluate(BROKEN) == []
        assert page.evaluate(WIDE % width) == []
        assert page.complaints() == []
        assert {url.split(":")[0] for url in page.requests()} <= {"file", "data"}


@needs_browser
def test_a_broken_page_is_noticed(tmp_path):
    "The checks above can fail."
    file = tmp_path / "page.html"
    file.write_text("<img src='data:image/png;base64,AAAA' alt='torn'><img src='http://127.0.0.1:9'>"
                    "<div style='width:3000px'>wide</div><script>null.x</script>")
    with Page() as page:
        page.open(file.as_uri(), 390)
        assert "torn" in page.evaluate(BROKEN) and page.evaluate(WIDE % 390)
        assert page.complaints() and any(url.startswith("http:") for url in page.requests())


@pytest.fixture
def lab(road, tmp_path):
    "JupyterLab on a folder with one paper notebook, whose defaults name the road's cache."
    run, _ = road
    nb = nbformat.read(notebook_folder() / "table_3.ipynb", as_version=4)
    for cell in nb.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source = cell.source.replace('profile: str = "quick"', 'profile: str = "smoke"')
            cell.source = cell.source.replace("paper_figures/local", str(tmp_path / "out"))
    nbformat.write(nb, tmp_path / "table_3.ipynb")
    env = {**os.environ, "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
           "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
           "JUPYTER_DATA_DIR": str(tmp_path / "data"), "IPYTHONDIR": str(tmp_path / "ipython"),
           "HOME": str(tmp_path)}
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0",
         f"--ServerApp.root_dir={tmp_path}", "--IdentityProvider.token=t",
         "--LabApp.expose_app_in_browser=True"], env=env, cwd=project_root(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = tmp_path / "runtime"
    try:
        wait_for(lambda: list(found.glob("jpserver-*.json")), 60)
        about = json.loads(next(found.glob("jpserver-*.json")).read_text())
        yield tmp_path / "table_3.ipynb", f"{about['url']}lab/tree/table_3.ipynb?token=t"
    finally:
        server.terminate()
        server.wait(30)


NOTEBOOK = "[...jupyterapp.shell.widgets('main')].find(w => w.content?.model?.cells)"
COUNTS = f"[...{NOTEBOOK}.content.model.cells].map(c => [c.type, c.executionCount])"
RUN = "[...document.querySelectorAll('.lm-MenuBar-item')].find(e => e.innerText.trim() == 'Run')"
RUN_ALL = "document.querySelector('.lm-Menu-item[data-command=\"runmenu:run-all\"]')"


def executed(page: Page) -> list[bool]:
    "Of each code cell, whether it has run."
    return [bool(count) for kind, count in page.evaluate(COUNTS) if kind == "code"]


@needs_browser
def test_run_all_in_jupyterlab(lab, tmp_path):
    "Judged by the notebook that was saved, not by the page."
    notebook, address = lab
    with Page() as page:
        page.open(address)
        idle = '.jp-Notebook-ExecutionIndicator[data-status="idle"]'
        wait_for(lambda: page.evaluate(f"!!document.querySelector('{idle}')"), 90)
        page.click("document.querySelector('.jp-Cell')")
        page.click(RUN)
        wait_for(lambda: page.evaluate(f"!!{RUN_ALL}"), 20)
        time.sleep(1)  # a menu does not take a click in the instant it opens
        assert page.click(RUN_ALL)
        wait_for(lambda: all(executed(page)), 90)
        page.evaluate(f"{NOTEBOOK}.context.save()")
        page.screenshot(tmp_path / "lab.png")
    code = [c for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    kinds = {o.output_type for c in code for o in c.outputs}
    assert "execute_result" in kinds and "error" not in kinds
    assert (tmp_path / "out").is_dir()
