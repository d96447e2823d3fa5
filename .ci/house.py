"""The house by rooms: their order (in settings.ini), the notebooks in them, what each exports.

The guards of tests/ and the site of .ci/docs.py read the house here, and nowhere else.
"""
import json
import re
from configparser import ConfigParser
from pathlib import Path

PAPER = "paper"  # nbs/paper: executed by papermill, exports nothing


def order(root: Path, key: str) -> list[str]:
    "A list of settings.ini: `rooms`, from the ground up, or the notebooks on `top`."
    ini = ConfigParser(delimiters=["="])
    ini.read(root / "settings.ini", encoding="utf-8")
    return ini["DEFAULT"][key].split()


def notebooks(root: Path) -> list[Path]:
    "Every notebook of nbs/, room by room from the ground up, then the top and the paper."
    rooms = order(root, "rooms")
    found = []
    for path in sorted((root / "nbs").rglob("*.ipynb")):
        parts = path.relative_to(root / "nbs").parts
        if any(part.startswith((".", "_")) for part in parts): continue
        room = rooms.index(parts[0]) if parts[0] in rooms else len(rooms)
        found.append((room, parts, path))
    return [path for *_, path in sorted(found)]


def in_rooms(root: Path) -> list[Path]:
    "The notebooks of the rooms and of the top: components, which export and test."
    return [path for path in notebooks(root) if path.relative_to(root / "nbs").parts[0] != PAPER]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def cells(path: Path, kind: str = "code") -> list[dict]:
    "The cells of one kind."
    try:
        made = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except ValueError as error:
        raise SystemExit(f"{path}: is no notebook ({error}); was it damaged by a merge? take one "
                         "side of it whole") from None
    return [cell for cell in made if cell["cell_type"] == kind]


def exports_to(path: Path) -> str | None:
    "What a notebook says it exports: `pixels.flow`, or nothing."
    for cell in cells(path):
        if said := re.match(r"#\|\s*default_exp\s+(\S+)", source(cell)): return said[1]
    return None


def exported(cell: dict) -> bool:
    return bool(re.match(r"#\|\s*export", source(cell)))


def floors(root: Path) -> dict[str, tuple[int, int]]:
    "Full name of a module -> its room's place in the order, and its number in the room."
    rooms = order(root, "rooms")
    found = {"mfdan": (len(rooms), 1)}
    for path in in_rooms(root):
        name, number = exports_to(path), re.match(r"(\d+)_", path.name)
        room = path.parent.name
        if name and number and room in rooms:
            found[f"mfdan.{name}"] = (rooms.index(room), int(number[1]))
        elif name: found[f"mfdan.{name}"] = (len(rooms), 0)
    return found


def shown(floor: tuple[int, int], root: Path) -> str:
    "A floor as a reader says it: `pixels 04`."
    rooms = order(root, "rooms")
    return f"{rooms[floor[0]]} {floor[1]:02d}" if floor[0] < len(rooms) else "the top"
