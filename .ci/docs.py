"""Build the offline site of the executed notebooks with their API into _docs/.

Component notebooks carry their outputs; paper notebooks are taken as the last `make paper`
executed them. A link to nothing fails the build. MathJax comes once from npm and is kept in
.cache/, so that a second build needs no network.
"""
import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import house
import links
import nbformat
from gallery import gallery
from nbdev.showdoc import DocmentTbl

from mfdan.results.catalogue import notebooks

ROOT = Path(__file__).resolve().parents[1]
NBS, WORK, SITE = ROOT / "nbs", ROOT / "_proc", ROOT / "_docs"
EXECUTED = ROOT / "paper_figures/local/quick-quick/notebooks"
MATHJAX = ROOT / ".cache/mathjax-3.2.2"
DIRECTIVE = re.compile(r"^#\|.*\n?", re.M)
LINK = re.compile(r"(!?)\[([^]]*)\]\((?!https?:|#)([^)\s]*[./][^)\s]*)\)")
PROJECT = ("CONTRIBUTING", "CHANGELOG")

CONF = """
project, author, copyright = "mfdan", "The mfdan authors", "2026, The mfdan authors"
extensions = ["myst_nb", "sphinx_copybutton", "sphinx_design"]
html_theme, html_title, html_favicon = "furo", "mfdan", "icon.svg"
html_static_path, html_show_sphinx = ["_static"], False
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 4
mathjax_path = "mathjax/tex-chtml.js"
suppress_warnings = ["mystnb.unknown_mime_type"]
"""


def fetch_mathjax() -> None:
    if (MATHJAX / "tex-chtml.js").exists(): return
    MATHJAX.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["npm", "pack", "mathjax@3.2.2"], cwd=MATHJAX, capture_output=True)
    if done.returncode: raise SystemExit("docs: MathJax is not in .cache/ and npm cannot fetch it; "
                                         "run `make docs` once with npm and a network")
    archive = next(MATHJAX.glob("*.tgz"))
    with tarfile.open(archive) as tar:
        for member in tar:
            wanted = r"package/es5/(tex-chtml\.js|output/chtml.*)"
            if not re.fullmatch(wanted, member.name): continue
            member.name = member.name.removeprefix("package/es5/")
            tar.extract(member, MATHJAX, filter="data")
    archive.unlink()


def docments(function) -> str:
    "The table of a function's docments; none where an annotation is for a type checker alone."
    try:
        return DocmentTbl(function)._repr_markdown_() or ""
    except NameError:
        return ""


def api(module: str) -> str:
    "Signature, docstring and the table of docments of everything a module exports."
    made = importlib.import_module(f"mfdan.{module}")
    parts = [f"## API of `mfdan.{module}`"]
    for name in made.__all__:
        thing = getattr(made, name)
        if not (inspect.isfunction(thing) or inspect.isclass(thing)): continue
        try:
            signature = str(inspect.signature(thing))
        except ValueError:
            signature = "(...)"
        parts += [f"### `{name}`", f"```python\n{name}{signature}\n```"]
        parts.append(inspect.getdoc(thing) or "")
        if inspect.isfunction(thing): parts.append(docments(thing))
    return "\n\n".join(parts)


def on_site(path: Path) -> Path | None:
    "Where a file of the repository stands on the site, if it does: nbs/ is the site's root."
    if path.is_relative_to(NBS) and path.is_file(): return path.relative_to(NBS)
    name = path.relative_to(ROOT)
    shown = {".png", ".svg", ".csv", ".json", ".ipynb"} if name.parts[0] == "paper_figures" else {}
    return name if path.suffix in shown or name.stem in PROJECT else None


def relinked(text: str, here: Path) -> str:
    "A page's Markdown with its links as the site needs them; a link to nothing is refused."
    def link(found: re.Match) -> str:
        mark, words, target = found.groups()
        name, sharp, anchor = target.partition("#")
        goal = (here.parent / name).resolve()
        if not goal.exists():
            raise SystemExit(f"docs: {here.relative_to(ROOT)} links to {target}, which is not "
                             "there; mend the link")
        there = on_site(goal)
        if there is None: return f"`{goal.relative_to(ROOT)}`" if goal.is_dir() else words
        way = os.path.relpath(there, on_site(here).parent)
        return f"{mark}[{words}]({way}{sharp}{anchor})"

    return LINK.sub(link, text)


def with_names(text: str, here: Path, homes: dict[str, Path]) -> str:
    "Names in backticks that another page defines become links to it."
    def link(found: re.Match) -> str:
        home = homes.get(found[1])
        if home is None or home == on_site(here): return found[0]
        return f"[{found[0]}]({os.path.relpath(home, on_site(here).parent)})"

    return re.sub(r"(?<!\[)`(\w+)`", link, text)


def page(path: Path, executed: Path, homes: dict[str, Path]) -> nbformat.NotebookNode:
    "The notebook as a reader of the site sees it."
    nb = nbformat.read(executed if executed.exists() else path, as_version=4)
    module = house.exports_to(path)
    kept = []
    for cell in nb.cells:
        if cell.cell_type == "code":
            if re.match(r"#\|\s*(hide|default_exp)", cell.source): continue
            if re.match(r"#\|\s*echo:\s*false", cell.source): cell.metadata.tags = ["remove-input"]
            cell.source = DIRECTIVE.sub("", cell.source)
            if not cell.source.strip() and not cell.get("outputs"): continue
        else: cell.source = with_names(relinked(cell.source, path), path, homes)
        kept.append(cell)
    nb.cells = kept
    if module: nb.cells.append(nbformat.v4.new_markdown_cell(api(module)))
    return nb


def exported_names() -> dict[str, Path]:
    "Name -> the page that defines it."
    scope: dict = {}
    exec((ROOT / "mfdan/_modidx.py").read_text(encoding="utf-8"), scope)
    pages = {f"mfdan.{house.exports_to(path)}": on_site(path) for path in house.in_rooms(ROOT)}
    found = {}
    for module, names in scope["d"]["syms"].items():
        for name in names:
            short = name.removeprefix(module + ".")
            # a GPU's version of a function bears its name
            if "." not in short and module in pages: found.setdefault(short, pages[module])
    return found


def add(path: Path, homes: dict[str, Path], executed: Path = Path("-")) -> str:
    "Put a notebook on the site; the name by which a table of contents knows it."
    there = on_site(path)
    (WORK / there).parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(page(path, executed, homes), WORK / there)
    return str(there.with_suffix(""))


def sections(homes: dict[str, Path]) -> dict[str, list[str]]:
    "The sidebar: one page, the rooms from the ground up, the paper, the project."
    first = ("start", "one_page", "add_a_method", "cli")
    found = {"Begin here": [add(NBS / f"{name}.ipynb", homes) for name in first] + ["gallery"]}
    for room in house.order(ROOT, "rooms"):
        made = [add(path, homes) for path in house.in_rooms(ROOT) if path.parent.name == room]
        if made: found[room.capitalize()] = made
    found["The paper, executed"] = [add(NBS / f"paper/{name}.ipynb", {}, EXECUTED / f"{name}.ipynb")
                                    for name in notebooks()]
    for path in sorted((ROOT / "paper_figures/gpu").glob("*.ipynb")):
        name = f"Measured on an {path.stem.upper()} <{add(path, {})}>"
        found["The paper, executed"].append(name)
    found["Project"] = list(PROJECT)
    return found


def main() -> None:
    fetch_mathjax()
    shutil.rmtree(WORK, ignore_errors=True)
    (WORK / "_static").mkdir(parents=True)
    shutil.copytree(MATHJAX, WORK / "_static/mathjax")
    homes = exported_names()
    add(NBS / "index.ipynb", homes)
    index = json.loads((WORK / "index.ipynb").read_text(encoding="utf-8"))
    for title, names in sections(homes).items():
        text = f"```{{toctree}}\n:caption: {title}\n:maxdepth: 1\n:hidden:\n\n" + "\n".join(names)
        index["cells"].append(nbformat.v4.new_markdown_cell(text + "\n```"))
    (WORK / "index.ipynb").write_text(json.dumps(index), encoding="utf-8")
    for name in PROJECT:
        text = (ROOT / f"{name}.md").read_text(encoding="utf-8")
        (WORK / f"{name}.md").write_text(relinked(text, ROOT / f"{name}.md"), encoding="utf-8")
    (WORK / "gallery.md").write_text(gallery(ROOT, WORK), encoding="utf-8")
    if (NBS / "index_files").exists(): shutil.copytree(NBS / "index_files", WORK / "index_files")
    shutil.copytree(ROOT / "paper_figures/synthetic", WORK / "paper_figures/synthetic",
                    ignore=shutil.ignore_patterns("*.html", "*.md", "*.tex"))
    shutil.copy(ROOT / ".ci/icon.svg", WORK)
    (WORK / "conf.py").write_text(CONF, encoding="utf-8")
    sphinx = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-j", "auto"]
    try:
        subprocess.run([*sphinx, "-b", "html", WORK, SITE], check=True)
    finally:
        shutil.rmtree(ROOT / "jupyter_execute", ignore_errors=True)  # myst-nb's by-product
    if links.main(SITE): raise SystemExit("docs: the site has links to nothing; mend them")
    print(SITE / "index.html")


if __name__ == "__main__":
    main()
