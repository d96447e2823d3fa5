"""Guards of the notebooks and of what is exported from them.

Each finding is one line: which file, what to do.

`python tests/guards.py [ROOT]` prints the findings and fails if there are any.
"""
import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"cv2", "dlib", "skimage"}  # not on a GPU node
GPU_SIDE = range(20, 35)  # notebooks 20 to 34, and what they import
ALSO_GPU_SIDE = {"config", "clips", "prepared", "flow", "magnet", "magnet_train"}


def source(cell) -> str:
    return "".join(cell["source"])


def notebooks(root: Path) -> list[Path]:
    return sorted(p for p in (root / "nbs").rglob("*.ipynb")
                  if not any(part.startswith((".", "_")) for part in p.relative_to(root).parts))


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def module_floors(root: Path) -> dict[str, int]:
    "Module name -> number of its notebook."
    floors = {}
    for path in notebooks(root):
        number = re.match(r"(\d+)_", path.name)
        name = next((m[1] for c in cells(path) if c["cell_type"] == "code"
                     for m in [re.match(r"#\|\s*default_exp\s+(\S+)", source(c))] if m), None)
        if name and number: floors[name] = int(number[1])
    return floors


def paper_notebooks(root: Path) -> list[str]:
    "The tag that papermill needs, and no outputs."
    found = []
    for path in sorted((root / "nbs/paper").glob("*.ipynb")):
        code = [c for c in cells(path) if c["cell_type"] == "code"]
        shown = path.relative_to(root)
        if not any("parameters" in c["metadata"].get("tags", []) for c in code):
            found.append(f"{shown}: no cell is tagged 'parameters', so papermill would silently "
                         "run the defaults; tag its first code cell (JupyterLab: gear icon)")
        if any(c.get("outputs") for c in code):
            found.append(f"{shown}: outputs are committed; clear them (results go to "
                         "paper_figures)")
        if any(re.search(r"^\s*(def|class) ", source(c), re.M) for c in code):
            found.append(f"{shown}: defines a function or class; move it to a component notebook")
    return found


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
        for folder, advise in advice.items():
            ours, made = ({p.relative_to(base): p for p in (base / folder).rglob("*")
                           if p.suffix in (".py", ".ipynb")
                           and "__pycache__" not in p.parts and ".ipynb_checkpoints" not in p.parts}
                          for base in (root, copy))
            for name in sorted(ours.keys() | made.keys()):
                if name not in ours or name not in made \
                        or ours[name].read_bytes() != made[name].read_bytes():
                    found.append(f"{name}: differs from what its notebook gives; {advise}")
    return found


class _NoAnnotations(ast.NodeTransformer):
    "jaxtyping's axis strings look like undefined names; annotations are not what we check here."

    def visit_arg(self, node): node.annotation = None; return node

    def visit_FunctionDef(self, node):
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node):
        self.generic_visit(node)
        node.annotation = ast.Constant(value=0)
        return node


def undefined_names(root: Path) -> list[str]:
    found = []
    for path in sorted((root / "mfdan").rglob("*.py")):
        if path.name == "_modidx.py": continue
        tree = _NoAnnotations().visit(ast.parse(path.read_text(encoding="utf-8")))
        done = subprocess.run(
            [Path(sys.executable).parent / "ruff", "check", "--isolated", "--select", "F821",
             "--output-format", "concise", "-"],
            input=ast.unparse(ast.fix_missing_locations(tree)), capture_output=True, text=True)
        for line in done.stdout.splitlines():
            if "F821" in line:
                name = line.split("F821")[1].strip()
                found.append(f"{path.relative_to(root)}: {name}: an exported function sees only "
                             "its module; import it in an exported cell or pass it as an argument")
    return found


def top_imports(path: Path) -> set[str]:
    "What a module imports when it is imported (imports inside functions come later)."
    seen = set()

    def walk(body):
        for node in body:
            if isinstance(node, ast.Import): seen.update(a.name for a in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                seen.add("." * node.level + node.module)
            elif isinstance(node, (ast.If, ast.Try, ast.With)):
                for part in ("body", "orelse", "finalbody"): walk(getattr(node, part, []))

    walk(ast.parse(path.read_text(encoding="utf-8")).body)
    return seen


def own(name: str) -> str | None:
    "`mfdan.flow`, `.flow` -> `flow`."
    if name.startswith("mfdan."): return name.split(".")[1]
    return name.lstrip(".").split(".")[0] if name.startswith(".") else None


def imports(root: Path) -> list[str]:
    "Heavy imports stay off the GPU side; a module imports only from floors below it."
    found, floors = [], module_floors(root)
    graph = {p.stem: top_imports(p) for p in (root / "mfdan").glob("*.py") if p.stem != "_modidx"}
    for module in sorted(graph):
        floor = floors.get(module)
        for name in graph[module]:
            other = own(name)
            if other in floors and floor is not None and floors[other] >= floor:
                found.append(f"mfdan/{module}.py: imports {other}, which does not lie below it "
                             f"({floors[other]:02d} against {floor:02d}); move what both need down")
        if module not in ALSO_GPU_SIDE and floor not in GPU_SIDE: continue
        todo, seen = [(module, module)], set()
        while todo:
            here, way = todo.pop()
            if here in seen: continue
            seen.add(here)
            for name in sorted(graph.get(here, ())):
                if name.split(".")[0] in HEAVY:
                    found.append(f"mfdan/{module}.py: a GPU node lacks {name} (imported through "
                                 f"{way}); import it inside the function that needs it")
                if own(name): todo.append((own(name), f"{way} -> {own(name)}"))
    return found


def tested(root: Path) -> list[str]:
    "A component notebook that exports code also tests it."
    found = []
    for path in sorted((root / "nbs").glob("*.ipynb")):
        code = [source(c) for c in cells(path) if c["cell_type"] == "code"]
        if any(re.match(r"#\|\s*export", c) for c in code) \
                and not any(re.search(r"\bassert\b|\btest_\w+\(", c) for c in code):
            found.append(f"{path.relative_to(root)}: exports code and tests nothing; "
                         "add an assertion")
    return found


def readme(root: Path) -> list[str]:
    "README.md is made from the index notebook."
    if not (root / "nbs/index.ipynb").exists(): return []
    spec = importlib.util.spec_from_file_location("readme", ROOT / ".ci/readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.disagreements(root)


GUARDS = (paper_notebooks, drift, undefined_names, imports, tested, readme)


def main(root: Path = ROOT) -> int:
    found = [line for guard in GUARDS for line in guard(root)]
    print(*found, sep="\n", end="\n" if found else "")
    print(f"guards: {len(found) or 'no'} findings in {len(notebooks(root))} notebooks")
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT))
