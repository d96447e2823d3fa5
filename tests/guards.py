"""Guards of the notebooks and of what is exported from them.

Each finding is one line: which file, what to do.

`python tests/guards.py [ROOT]` prints the findings and fails if there are any.
"""
import ast
import importlib.util
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / ".ci"), str(ROOT / "tests")]

import guards_of_modules  # noqa: E402
import house  # noqa: E402
from house import cells, exported, source  # noqa: E402

MEDIAN, LARGE, SHARE_LARGE, SHARE_SEEN, IN_A_ROW = 12, 25, 0.05, 0.70, 4


def misplaced(path: Path, root: Path) -> str | None:
    "What is wrong with a notebook's place or name, and what to do."
    rooms, top = house.order(root, "rooms"), house.order(root, "top")
    *folders, name = path.relative_to(root / "nbs").parts
    says = house.exports_to(path)
    if not folders and path.stem in top:
        wrong = says not in (None, path.stem)
        return f"exports {says}; its name asks for `#| default_exp {path.stem}`" if wrong else None
    if folders == [house.PAPER]:
        return f"exports {says}; a paper notebook exports nothing" if says else None
    if folders and folders[0] not in rooms:
        return f"'{folders[0]}' is no room; move it to one of {', '.join(rooms)}, or add the " \
               "room to `rooms` in settings.ini"
    if len(folders) != 1:
        return f"lies in no room; move it to nbs/ROOM/, ROOM one of {', '.join(rooms)}"
    named = re.fullmatch(r"\d\d_(\w+)\.ipynb", name)
    if not named: return "has no number; call it NN_name.ipynb, after what it imports"
    asked = f"{folders[0]}.{named[1]}"
    return None if says == asked else f"exports {says}; its place asks for `#| default_exp {asked}`"


def places(root: Path) -> list[str]:
    "Every notebook stands in a room under the name that it exports, every module has a notebook."
    found, numbers = [], {}
    for path in house.notebooks(root):
        shown = path.relative_to(root)
        if wrong := misplaced(path, root): found.append(f"{shown}: {wrong}")
        number = (path.parent, path.name[:2])
        if number[1].isdigit() and numbers.setdefault(number, path) != path:
            found.append(f"{shown}: number {number[1]} is {numbers[number].name}'s; a module "
                         "imports from lower numbers, so give each its own")
    exports = {f"mfdan.{house.exports_to(path)}" for path in house.in_rooms(root)}
    for module, path in guards_of_modules.modules(root).items():
        if path.stem != "__init__" and module not in exports:
            found.append(f"{path.relative_to(root)}: no notebook exports it; delete it")
    return found


def paper_notebooks(root: Path) -> list[str]:
    "The tag that papermill needs, and no outputs."
    found = []
    for path in sorted((root / "nbs/paper").glob("*.ipynb")):
        code, shown = cells(path), path.relative_to(root)
        if not any("parameters" in c["metadata"].get("tags", []) for c in code):
            found.append(f"{shown}: no cell is tagged 'parameters', so papermill would silently "
                         "run the defaults; tag its first code cell (JupyterLab: gear icon)")
        if any(c.get("outputs") for c in code):
            found.append(f"{shown}: outputs are committed; clear them (results go to "
                         "paper_figures)")
        if any(re.search(r"^\s*(def|class) ", source(c), re.M) for c in code):
            found.append(f"{shown}: defines a function or class; move it to a component notebook")
    return found


def compared(root: Path) -> dict[Path, Path]:
    "The files that export and clean may change, by name."
    return {path.relative_to(root): path for folder in ("nbs", "mfdan")
            for path in (root / folder).rglob("*") if path.suffix in (".py", ".ipynb")
            and not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts)}


def drift(root: Path) -> list[str]:
    "Export and clean must leave the tree as it is."
    found = []
    with tempfile.TemporaryDirectory() as tmp:
        copy = Path(tmp) / "mfdan"
        skip = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.safetensors")
        for name in ("nbs", "mfdan"): shutil.copytree(root / name, copy / name, ignore=skip)
        for name in ("settings.ini", "README.md", "pyproject.toml"):
            if (root / name).exists(): shutil.copy(root / name, copy / name)
        bin_ = Path(sys.executable).parent
        for tool in ("nbdev_export", "nbdev_clean"):
            done = subprocess.run([bin_ / tool], cwd=copy, capture_output=True, text=True)
            if done.returncode: return [f"{tool} fails: {done.stderr.strip().splitlines()[-1]}"]
        advice = {"nbs": "run `make export` (nbdev_clean) and commit",
                  "mfdan": "mfdan/ is exported: change the notebook, run `make export` and commit"}
        ours, made = compared(root), compared(copy)
        for name in sorted(ours.keys() | made.keys()):
            if name not in ours or name not in made \
                    or ours[name].read_bytes() != made[name].read_bytes():
                found.append(f"{name}: differs from what its notebook gives; "
                             f"{advice[name.parts[0]]}")
    return found


def tested(root: Path) -> list[str]:
    "A component notebook that exports code also tests it."
    found = []
    for path in house.in_rooms(root):
        code = cells(path)
        if any(map(exported, code)) \
                and not any(re.search(r"\bassert\b|\btest_\w+\(", source(c)) for c in code):
            found.append(f"{path.relative_to(root)}: exports code and tests nothing; "
                         "add an assertion")
    return found


def definitions(path: Path) -> list[tuple[str, int, bool]]:
    "Each exported cell that defines: its id, its lines, and whether a look or a test follows."
    code, found = cells(path), []
    for i, cell in enumerate(code):
        if not exported(cell) or not re.search(r"^(def|class|@)", source(cell), re.M): continue
        lines = [ln for ln in source(cell).splitlines() if ln.strip() and not ln.startswith("#|")]
        seen = i + 1 < len(code) and not exported(code[i + 1])
        found.append((cell.get("id", str(i)), len(lines), seen))
    return found


def figures(root: Path) -> dict[str, float]:
    "What is asked of the exported definitions, over the whole house."
    every = [made for path in house.in_rooms(root) for made in definitions(path)]
    sizes = [size for _, size, _ in every] or [0]
    return {"cells": len(every), "median": statistics.median(sizes),
            "large": sum(size > LARGE for size in sizes) / len(sizes),
            "seen": sum(seen for *_, seen in every) / max(len(every), 1)}


def in_words(root: Path) -> str:
    f = figures(root)
    return f"{f['cells']} definition cells: median {f['median']:g} lines (at most {MEDIAN}), " \
           f"{f['large']:.1%} over {LARGE} (at most {SHARE_LARGE:.0%}), {f['seen']:.0%} followed " \
           f"by a look or a test (at least {SHARE_SEEN:.0%})"


def unseen(path: Path) -> float: return sum(not seen for *_, seen in definitions(path))


def pages(root: Path) -> list[str]:
    "Definitions are short, and the next cell shows or tests them."
    found, f = [], figures(root)
    made = [path for path in house.in_rooms(root) if definitions(path)]
    if made and (f["median"] > MEDIAN or f["large"] > SHARE_LARGE):
        long = max(made, key=lambda p: sum(size for _, size, _ in definitions(p) if size > MEDIAN))
        found.append(f"nbs: {in_words(root)}; split by ideas, {long.relative_to(root)} first")
    if made and f["seen"] < SHARE_SEEN:
        blind = max(made, key=unseen)
        found.append(f"nbs: {in_words(root)}; show or test what was defined, "
                     f"{blind.relative_to(root)} first ({unseen(blind)} cells)")
    for path in made:
        row = []
        for name, _, seen in definitions(path):
            row = [] if seen else [*row, name]
            if len(row) == IN_A_ROW + 1:
                found.append(f"{path.relative_to(root)}: cells {', '.join(row)} define one after "
                             f"another (at most {IN_A_ROW}); show or test in between")
    return found


def crowded(text: str) -> list[ast.stmt]:
    "Statements that put a `try`, or an `if` that has an `else`, and its body on one line."
    return [node for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Try) and node.body[0].lineno == node.lineno
            or isinstance(node, ast.If) and node.orelse
            and node.body[0].lineno == node.test.end_lineno]


def plain_lines(root: Path) -> list[str]:
    "`try`, and `if` with `else`, are spelled out."
    texts = [(str(path.relative_to(root)), path.read_text(encoding="utf-8"))
             for folder in ("tests", ".ci") for path in sorted((root / folder).glob("*.py"))]
    for path in house.notebooks(root):
        texts += [(f"{path.relative_to(root)}, cell {cell.get('id')}", source(cell))
                  for cell in cells(path)]
    return [f"{where}: `{text.splitlines()[node.lineno - 1].strip()}`: write the body below"
            for where, text in texts for node in crowded(text)]


LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]*[./][^)#\s]*)[^)]*\)")
NAMED = re.compile(r"[`\[](\d\d_\w+)[`\]]")  # a notebook named in a text


def links(root: Path) -> list[str]:
    "A link, and a notebook's name, lead somewhere; where the number is another, it is said."
    texts = [(path, path.read_text(encoding="utf-8")) for path in sorted(root.glob("*.md"))]
    texts += [(path, "\n".join(map(source, cells(path, "markdown"))))
              for path in house.notebooks(root)]
    stems = {path.stem[3:]: path.stem for path in house.notebooks(root) if path.stem[:2].isdigit()}
    found = []
    for path, text in texts:
        broken = [(f"links to {target}, which", Path(target).stem) for target in LINK.findall(text)
                  if not (path.parent / target).resolve().exists()]
        broken += [(f"names {name}, which", name) for name in set(NAMED.findall(text))
                   if name not in stems.values()]
        for what, name in sorted(broken):
            now = stems.get(name[3:])
            found.append(f"{path.relative_to(root)}: {what} is not there; "
                         f"{f'it is {now} now' if now else 'mend it'}")
    return found


def readme(root: Path) -> list[str]:
    "README.md is made from the index notebook."
    if not (root / "nbs/index.ipynb").exists(): return []
    spec = importlib.util.spec_from_file_location("readme", ROOT / ".ci/readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.disagreements(root)


TEXTS = {".py", ".md", ".ini", ".toml", ".yml", ".cff", ".txt", ".sh", ".json", ".csv", ".tex",
         ".html", ".svg", ".ipynb", ""}
EVERYBODYS = {"/", "/home", "/opt", "/srv", "/usr", "/usr/src", "/usr/local", "/var", "/mnt"}


def folders_of_a_machine(root: Path) -> str:  # a pattern
    "Homes, what temporary names look like, and what lies around this checkout and its cache."
    temporary = re.escape(tempfile.gettempdir())
    around = {str(Path.home()), *map(str, root.parents)}
    if cache := os.environ.get("MFDAN_CACHE"): around.add(str(Path(cache).parent))
    around = {folder for folder in around - EVERYBODYS if not re.match(temporary, folder)}
    homes = r"(?<![\w.])/(?:home|Users)/\w+/"
    return "|".join([homes, rf"{temporary}/(?:tmp|pytest-)\w", *(
        rf"(?<![\w.)\]}}/]){re.escape(folder)}/\w" for folder in sorted(around))])


def texts(root: Path) -> list[Path]:
    "What is committed and can be read."
    made = [path for path in root.iterdir() if path.is_file()]
    for folder in ("nbs", "mfdan", "tests", ".ci", "paper_figures/synthetic"):
        made += [path for path in (root / folder).rglob("*") if path.is_file()]
    return sorted(path for path in made if path.suffix in TEXTS and path.name != ".git"
                  and not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts))


def private(root: Path) -> list[str]:
    "No committed text, and no stored output, names a folder of somebody's machine."
    pattern, found = re.compile(folders_of_a_machine(root)), []
    for path in texts(root):
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{path.relative_to(root)}: names {text[at.start():at.end() + 20].split()[0]}, a "
                  "folder of one machine; show what is below it, and run the notebook again"
                  for at in list(pattern.finditer(text))[:1]]
    return found


def unique_cells(root: Path) -> list[str]:
    "Every cell of a notebook has an id of its own."
    found = []
    for path in house.notebooks(root):
        ids = [cell.get("id") for kind in ("code", "markdown", "raw") for cell in cells(path, kind)]
        twice = sorted({str(name) for name in ids if ids.count(name) > 1})
        if twice: found.append(f"{path.relative_to(root)}: cells share the id {', '.join(twice)}; "
                               "give one of each another")
    return found


GUARDS = (places, paper_notebooks, drift, *guards_of_modules.GUARDS, tested, pages, plain_lines,
          links, readme, private, unique_cells)


def main(root: Path = ROOT) -> int:
    found = [line for guard in GUARDS for line in guard(root)]
    print(*found, sep="\n", end="\n" if found else "")
    print(in_words(root))
    print(f"guards: {len(found) or 'no'} findings in {len(house.notebooks(root))} notebooks")
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT))
