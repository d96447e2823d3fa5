"""Guards of what is exported: floors, what a GPU node lacks, one of each, lengths."""
import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import house

HEAVY = {"cv2", "dlib", "skimage"}  # not on a GPU node
MAY_BE_HEAVY = ("corpus", "video", "bench", "pixels.align", "pixels.parts", "pixels.prepare")
LONGEST = 350  # lines of a module

WRITER, ASKER = "mfdan.core.files", "mfdan.core.provenance"
WRITES = {"fsync", "mkdtemp", "mkstemp", "NamedTemporaryFile", "os.replace", "os.rename",
          "shutil.move", ".write_text", ".write_bytes"}
ASKS = {"importlib.metadata", "platform"}
ALSO = {"mfdan.core.private": "git"}  # whether it would add a file; the commit is not asked there
TWINS = {  # public names that two modules may share, and why
    "main": "entry points of commands",
    "MFDAN": "the network, and the network under the contract of a method",
    "iterate": "the GPU's version of tvl1's", "smooth": "the GPU's version of tvl1's",
    "sort5": "the GPU's version of tvl1's", "median_of_sorted": "the GPU's version of tvl1's",
}


def modules(root: Path) -> dict[str, Path]:
    "Full name of a module, or of a package, and its file."
    found = {}
    for path in sorted((root / "mfdan").rglob("*.py")):
        if path.name == "_modidx.py": continue
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if path.stem == "__init__" else parts)] = path
    return found


def tree_of(path: Path) -> ast.Module: return ast.parse(path.read_text(encoding="utf-8"))


def imported(node: ast.AST, path: Path, root: Path) -> list[str]:
    "What one statement imports, by full name; nothing for other statements."
    if isinstance(node, ast.Import): return [a.name for a in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        return [a.value for a in node.args[:1] if isinstance(a, ast.Constant)]
    if not isinstance(node, ast.ImportFrom): return []
    base = [node.module] if node.module else []
    if node.level:
        folder = path.relative_to(root).parent.parts
        base = [*folder[:len(folder) + 1 - node.level], *base]
    return [".".join([*base, a.name]) for a in node.names]


def owner(name: str, known) -> str | None:
    "`mfdan.pixels.flow.flow_image` -> `mfdan.pixels.flow`: the longest beginning that is known."
    while name and name not in known: name = name.rpartition(".")[0]
    return name or None


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
    "An exported function sees only its arguments and its module."
    found = []
    for path in modules(root).values():
        tree = _NoAnnotations().visit(tree_of(path))
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


def floors(root: Path) -> list[str]:
    "A module imports from its own room (lower numbers) and from rooms below, anywhere in it."
    found, floor = [], house.floors(root)
    known = floor | dict.fromkeys(f"mfdan.{room}" for room in house.order(root, "rooms"))
    for module, path in modules(root).items():
        here = floor.get(module)
        if here is None or module == "mfdan": continue  # `mfdan` offers names of all rooms
        for node in ast.walk(tree_of(path)):
            for name in imported(node, path, root):
                other = owner(name, known)
                there = floor.get(other)
                if there is None or other == module or there < here: continue
                found.append(f"{path.relative_to(root)}:{node.lineno}: imports {other}, which does "
                             f"not lie below it ({house.shown(there, root)} against "
                             f"{house.shown(here, root)}); move what both need down")
    return found


def lost_imports(root: Path) -> list[str]:
    "What modules and notebooks import of the package is there, inside functions too."
    files = modules(root)
    rooms = {f"mfdan.{room}" for room in house.order(root, "rooms")}
    trees = [(str(path.relative_to(root)), tree_of(path), path) for path in files.values()]
    for path in house.notebooks(root):
        trees += [(f"{path.relative_to(root)}, cell {cell.get('id')}",
                   ast.parse(house.source(cell)), path) for cell in house.cells(path)]
    found = set()
    for where, tree, path in trees:
        for node in ast.walk(tree):
            for name in imported(node, path, root):
                home = owner(name, files)  # the module itself, or the module of what is named
                known = home == name or home == name.rpartition(".")[0] and home not in rooms
                if name.startswith("mfdan.") and not known:
                    found.add(f"{where}: imports {name}, which is not there; where is it now?")
    return sorted(found)


def at_the_top(body: list[ast.stmt]):
    "The statements that run when a module is imported; those in functions run later."
    for node in body:
        yield node
        for part in ("body", "handlers", "orelse", "finalbody"):
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                yield from at_the_top(getattr(node, part, []))


def import_graph(root: Path) -> dict[str, set[str]]:
    "Module -> what it imports when it is imported; a module imports the package around it."
    files = modules(root)
    graph = {}
    for module, path in files.items():
        names = {name for node in at_the_top(tree_of(path).body)
                 for name in imported(node, path, root)}
        graph[module] = {owner(name, files) or name for name in names}
        graph[module] |= {module.rpartition(".")[0]} & files.keys()
    return graph


def heavy_imports(root: Path) -> list[str]:
    "What a GPU node lacks is imported nowhere on its road, but inside functions."
    found, graph = [], import_graph(root)
    for module in graph:
        if module.removeprefix("mfdan.").startswith(MAY_BE_HEAVY): continue
        todo, seen = [(module, module)], set()
        while todo:
            here, way = todo.pop()
            if here in seen: continue
            seen.add(here)
            for name in sorted(graph[here]):
                if name in graph: todo.append((name, f"{way} -> {name}"))
                if name.split(".")[0] not in HEAVY: continue
                found.append(f"{module}: a GPU node lacks {name.split('.')[0]} (imported through "
                             f"{way}); import it inside the function that needs it")
    return found


def writes(node: ast.AST) -> str | None:
    "How a node writes by itself, if it does."
    if isinstance(node, ast.ImportFrom):
        return next((a.name for a in node.names if f"{node.module}.{a.name}" in WRITES
                     or a.name in WRITES), None)
    if not isinstance(node, ast.Call): return None
    name = ast.unparse(node.func)
    last = name.rpartition(".")[2]
    if {name, last} & WRITES: return name
    if f".{last}" in WRITES and last != name: return f".{last}"
    # Path.rename(other), Path.replace(other); pandas and str have methods of these names as well
    method = isinstance(node.func, ast.Attribute) and node.func.attr
    if method not in ("rename", "replace") or len(node.args) != 1 or node.keywords: return None
    plain = isinstance(node.func.value, ast.Subscript) \
        or isinstance(node.args[0], (ast.Constant, ast.Dict))
    return None if plain else f".{method}"


def asks(node: ast.AST) -> str | None:
    "Whether a node asks git, or which versions and machine these are."
    if isinstance(node, ast.Import):
        return next((a.name for a in node.names if a.name in ASKS), None)
    if isinstance(node, ast.ImportFrom): return node.module if node.module in ASKS else None
    first = getattr(node, "elts", None) or getattr(node, "args", None)
    if not isinstance(node, (ast.List, ast.Tuple, ast.Call)) or not first: return None
    said = first[0].value if isinstance(first[0], ast.Constant) else None
    return "git" if isinstance(said, str) and said.split(" ")[0] == "git" else None


def one_of_each(root: Path) -> list[str]:
    "One writer and one asker for all."
    found = []
    for module, path in modules(root).items():
        for node in ast.walk(tree_of(path)):
            where = f"{path.relative_to(root)}:{getattr(node, 'lineno', 0)}"
            if module != WRITER and (how := writes(node)):
                found.append(f"{where}: {how}: only {WRITER} puts files into place; call it")
            what = asks(node) if module != ASKER else None
            if what and ALSO.get(module) != what:
                found.append(f"{where}: asks {what}: only {ASKER} does; call it")
    return found


def names_once(root: Path) -> list[str]:
    "A public name stands for one thing."
    homes = defaultdict(list)
    for module, path in modules(root).items():
        for node in tree_of(path).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_":
                homes[node.name].append(module)
    return [f"{where[-1]}: {name} is defined in {' and '.join(where[:-1])} already; a name is not "
            "used for two things: rename one" for name, where in homes.items()
            if len(set(where)) > 1 and name not in TWINS]


def lengths(root: Path) -> list[str]:
    "No module is longer than a reader can hold."
    found = []
    for path in modules(root).values():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > LONGEST:
            found.append(f"{path.relative_to(root)}: {lines} lines, at most {LONGEST}: split its "
                         "notebook by ideas")
    return found


GUARDS = (undefined_names, floors, lost_imports, heavy_imports, one_of_each, names_once, lengths)
