"""Build the offline site of the executed notebooks with their API into _docs/.

Component notebooks carry their outputs; paper notebooks are taken as the last `make paper`
executed them. MathJax comes once from npm and is kept in .cache/, so that a second build
needs no network.
"""
import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import nbformat
from nbdev.showdoc import DocmentTbl

ROOT = Path(__file__).resolve().parents[1]
NBS, WORK, SITE = ROOT / "nbs", ROOT / "_proc", ROOT / "_docs"
EXECUTED = ROOT / "paper_figures/local/quick-quick/notebooks"
MATHJAX = ROOT / ".cache/mathjax-3.2.2"
DIRECTIVE = re.compile(r"^#\|.*\n?", re.M)

CONF = """
project, author, copyright = "mfdan", "The mfdan authors", "2026, The mfdan authors"
extensions = ["myst_nb", "sphinx_copybutton", "sphinx_design"]
html_theme, html_title = "furo", "mfdan"
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


def api(module: str) -> str:
    "Signature, docstring and the table of docments of everything a module exports."
    made = importlib.import_module(f"mfdan.{module}")
    parts = [f"## API of `mfdan.{module}`"]
    for name in made.__all__:
        thing = getattr(made, name)
        if not (inspect.isfunction(thing) or inspect.isclass(thing)): continue
        try: signature = str(inspect.signature(thing))
        except ValueError: signature = "(...)"
        parts += [f"### `{name}`", f"```python\n{name}{signature}\n```"]
        parts.append(inspect.getdoc(thing) or "")
        table = DocmentTbl(thing)._repr_markdown_() if inspect.isfunction(thing) else ""
        if table: parts.append(table)
    return "\n\n".join(parts)


def page(path: Path, executed: Path, links: dict[str, str]) -> nbformat.NotebookNode:
    "The notebook as a reader of the site sees it."
    nb = nbformat.read(executed if executed.exists() else path, as_version=4)
    module = None
    kept = []
    for cell in nb.cells:
        if cell.cell_type == "code":
            if found := re.match(r"#\|\s*default_exp\s+(\S+)", cell.source): module = found[1]
            if re.match(r"#\|\s*(hide|default_exp)", cell.source): continue
            if re.match(r"#\|\s*echo:\s*false", cell.source): cell.metadata.tags = ["remove-input"]
            cell.source = DIRECTIVE.sub("", cell.source)
            if not cell.source.strip() and not cell.get("outputs"): continue
        else:
            to_notebook = r"\]\((?:\.\./)*(?:nbs/)?([\w/]+)\.ipynb"
            cell.source = re.sub(to_notebook, r"](\1.ipynb", cell.source)
            cell.source = re.sub(r"\[([^]]+)\]\(\.\./LICENSE\)", r"\1", cell.source)
            cell.source = cell.source.replace("](../CONTRIBUTING.md)", "](CONTRIBUTING.md)")
            cell.source = re.sub(
                r"\[[^]]+\]\(\.\./(paper_figures[\w/-]+)\)", r"`\1`", cell.source)
            cell.source = cell.source.replace("](../paper_figures/", "](paper_figures/")
            cell.source = re.sub(
                r"(?<!\[)`(\w+)`", lambda m: f"[`{m[1]}`]({links[m[1]]})" if m[1] in links
                and links[m[1]] != path.name else m[0], cell.source)
        kept.append(cell)
    nb.cells = kept
    if module: nb.cells.append(nbformat.v4.new_markdown_cell(api(module)))
    return nb


def exported_names() -> dict[str, str]:
    index = ROOT / "mfdan/_modidx.py"
    scope: dict = {}
    exec(index.read_text(encoding="utf-8"), scope)
    found = {}
    for module, names in scope["d"]["syms"].items():
        for name in names:
            short = name.removeprefix(module + ".")
            if "." in short: continue
            nb = next(NBS.glob(f"[0-9]*_{module.split('.')[-1]}.ipynb"))
            found.setdefault(short, nb.name)  # a GPU's version of a function bears its name
    return found


def main() -> None:
    fetch_mathjax()
    shutil.rmtree(WORK, ignore_errors=True)
    (WORK / "_static").mkdir(parents=True)
    (WORK / "paper").mkdir()
    shutil.copytree(MATHJAX, WORK / "_static/mathjax")
    links = exported_names()
    rooms, paper = [], []
    for path in sorted(NBS.glob("*.ipynb")):
        nbformat.write(page(path, Path("-"), links), WORK / path.name)
        if path.stem != "index": rooms.append(path.stem)
    for path in sorted((NBS / "paper").glob("*.ipynb")):
        nbformat.write(page(path, EXECUTED / path.name, {}), WORK / "paper" / path.name)
        paper.append(f"paper/{path.stem}")
    (WORK / "paper_figures/gpu").mkdir(parents=True)
    for path in sorted((ROOT / "paper_figures/gpu").glob("*.ipynb")):
        nbformat.write(page(path, Path("-"), {}), WORK / "paper_figures/gpu" / path.name)
        paper.append(f"Measured on an {path.stem.upper()} <paper_figures/gpu/{path.stem}>")
    if (NBS / "index_files").exists(): shutil.copytree(NBS / "index_files", WORK / "index_files")
    shutil.copytree(ROOT / "paper_figures/synthetic", WORK / "paper_figures/synthetic",
                    ignore=shutil.ignore_patterns("*.html", "*.md", "*.tex"))
    index = json.loads((WORK / "index.ipynb").read_text(encoding="utf-8"))
    project = ["CONTRIBUTING", "CHANGELOG"]
    for name in project: shutil.copy(ROOT / f"{name}.md", WORK)
    parts = (("The paper, executed", paper), ("Rooms", rooms), ("Project", project))
    for title, names in parts:
        text = f"```{{toctree}}\n:caption: {title}\n:maxdepth: 1\n:hidden:\n\n" + "\n".join(names)
        index["cells"].append(nbformat.v4.new_markdown_cell(text + "\n```"))
    (WORK / "index.ipynb").write_text(json.dumps(index), encoding="utf-8")
    (WORK / "conf.py").write_text(CONF, encoding="utf-8")
    sphinx = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-j", "auto"]
    try: subprocess.run([*sphinx, "-b", "html", WORK, SITE], check=True)
    finally: shutil.rmtree(ROOT / "jupyter_execute", ignore_errors=True)  # myst-nb's by-product
    print(SITE / "index.html")


if __name__ == "__main__":
    main()
