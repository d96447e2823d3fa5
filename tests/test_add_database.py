"""Adding a database touches one place: a file outside the package goes the whole road."""
import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import layouts
import pytest

import mfdan
from mfdan.core.config import PROFILES, FlowConfig
from mfdan.data import protocols, registry
from mfdan.data.check import check_root
from mfdan.data.database import Correction
from mfdan.data.fabricated import fabricate, made_clips
from mfdan.data.protocols import MEGC2019, check_counts, in_scope, with_labels
from mfdan.data.registry import databases, load_database, record_of
from mfdan.data.root import read_root
from mfdan.pixels.align import fit_crop
from mfdan.pixels.prepare import prepare
from mfdan.results.runs import variant
from mfdan.training.loso import run_loso
from mfdan.training.plan import plan

PACKAGE = Path(mfdan.__file__).parent
SETTINGS = replace(PROFILES["quick"], factors=(1,), magnifier="linear",
                   flow=FlowConfig(setting="fast"))  # the frames are noise: it never converges

DFME = '''
from mfdan.data.database import Column, CropRule, Database, Expected, Sheet
from mfdan.data.protocols import CLASSES, MEGC2019, Protocol, register_protocol
from codes_of_dfme import CODES


def mend(cells):
    "A sheet of micro and macro rows; the class is a number, and an offset of 0 is none."
    if cells["kind"] != "micro": return None
    return {**cells, "emotion": CODES.get(cells["code"]), "offset": cells["offset"] or None}


DFME = Database(
    name="DFME", cites="Zhao et al., 2023", rate=500,
    layouts=("part_A/{subject}/{clip}/color/f{frame:05d}.png",),
    subject=r"person_0*(\\d+)", spelling="person_{:03d}", clip=r"\\d+_\\d+", frame=r"f(\\d+)\\.png",
    sheet=Sheet("DFME_labels.xlsx", r"dfme.*\\.xlsx", header=False, mend=mend, columns=(
        Column(says="subject"), Column(says="name"), Column(says="onset"), Column(says="apex"),
        Column(says="offset"), Column(says="code"), Column(says="kind", filler="micro"))),
    emotions=("fear", "happiness", "surprise"), native=("fear", "happiness", "surprise"),
    crop=CropRule("centre", 24),
    expected={"native": Expected({"fear": 4, "happiness": 4, "surprise": 4}, subjects=4)},
)

FOUR = register_protocol(Protocol(
    "four", (*MEGC2019.databases, "DFME"),
    labels={**MEGC2019.labels, "DFME": {"fear": "negative", "happiness": "positive",
                                        "surprise": "surprise"}},
    classes=dict.fromkeys((*MEGC2019.scopes, "DFME"), CLASSES), composite=True))
'''
CODES = 'CODES = {1: "fear", 2: "happiness", 3: "surprise"}\n'
CODE = {"fear": 1, "happiness": 2, "surprise": 3}


def package_state() -> dict:
    "Every file of the package, by its hash."
    return {str(p.relative_to(PACKAGE)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts}


@pytest.fixture
def forget(monkeypatch):
    "What a test registers is gone after it."
    databases()
    for known in (registry.RECORDS, registry.FILES, protocols.PROTOCOLS):
        for name in known: monkeypatch.setitem(known, name, known[name])  # each is put back
    monkeypatch.setenv(registry.NAMED, "")
    before = {id(known): list(known) for known in (registry.RECORDS, registry.FILES,
                                                   protocols.PROTOCOLS)}
    yield
    for known in (registry.RECORDS, registry.FILES, protocols.PROTOCOLS):
        for name in [name for name in known if name not in before[id(known)]]: del known[name]


@pytest.fixture
def file(tmp_path, forget):
    "The one place: a file, with a helper beside it. Whatever a test does, the package stays."
    (tmp_path / "dfme.py").write_text(DFME)
    (tmp_path / "codes_of_dfme.py").write_text(CODES)
    before = package_state()
    yield tmp_path / "dfme.py"
    sys.modules.pop("codes_of_dfme", None)
    assert package_state() == before


def clips_of(record, n=12):
    "Clips named as this database names them, and their class as its sheet writes it."
    made = made_clips(record, n, subjects=4)
    return [clip | {"name": f"{clip['number']}_{i}", "code": CODE[clip["emotion"]]}
            for i, clip in enumerate(made)]


@pytest.fixture
def fourth(file, tmp_path):
    "The record, and a root in which its copy lies beside the paper's three databases."
    record, = load_database(file)
    root = layouts.write_all(tmp_path / "copy", layouts.few())
    fabricate(root, record, clips_of(record))
    return record, root


# -- the whole road ---------------------------------------------------------------------------

def test_a_database_from_a_file_goes_the_whole_road(fourth, tmp_path):
    record, root = fourth
    reading = read_root(root)
    own = reading.clips[reading.clips.database == "DFME"].reset_index(drop=True)
    assert reading.left_out.empty and reading.problems.empty, reading.summary()
    assert list(own.clip_id[:2]) == ["DFME/person_001/1_0", "DFME/person_001/1_4"]
    assert (len(own), own.subject.nunique(), set(own.apex_source)) == (12, 4, {"annotation"})
    assert own.groupby("emotion").size().to_dict() == {"fear": 4, "happiness": 4, "surprise": 4}

    prepared = prepare(own, SETTINGS, tmp_path / "cache", workers=1, progress=False)
    assert (len(prepared), prepared.flow.shape) == (12, (12, 3, 56, 56))
    run = variant("quick", "DFME", method="linear", protocol="native")
    assert len(plan(prepared, run)) == 4
    made = run_loso(prepared, [run], tmp_path / "store", workers=1, progress=False)
    assert (made.trained, made.failed) == (4, [])


def test_a_copy_of_it_is_checked_against_its_own_record(fourth):
    _, root = fourth
    report = check_root(root)
    assert "; beside it DFME: 12 clips; 0 left out; differing: SMIC-HS" in report.verdict()
    own = report.own.set_index("class")
    assert (own.found == own.expected).all() and own.found["subjects"] == 4
    assert "Own classes, found / expected" in str(report)
    alone = check_root({"DFME": root})
    assert alone.ok and alone.verdict().startswith("complete: 0 of 442 clips of the composite (not")
    shutil.rmtree(next(root.rglob("1_0")))
    assert check_root({"DFME": root}).differs == ["DFME fear"]


def test_a_worker_learns_of_it_by_the_environment(fourth, tmp_path):
    "Two processes that prepare: neither was told of the file but by its starter."
    _, root = fourth
    assert str(tmp_path / "dfme.py") in os.environ[registry.NAMED]
    code = ("import sys; from pathlib import Path; from dataclasses import replace\n"
            "from mfdan.core.config import PROFILES, FlowConfig\n"
            "from mfdan.data.root import read_root; from mfdan.pixels.prepare import prepare\n"
            "settings = replace(PROFILES['quick'], factors=(1,), magnifier='linear',\n"
            "                   flow=FlowConfig(setting='fast'))\n"
            "clips = read_root({'DFME': sys.argv[1]}).clips\n"
            "print(len(prepare(clips, settings, Path(sys.argv[2]), workers=2, progress=False)))\n")
    done = subprocess.run([sys.executable, "-c", code, str(root), str(tmp_path / "cache")],
                          capture_output=True, text=True)
    assert done.stdout.strip() == "12", done.stderr


# -- a protocol names its databases -----------------------------------------------------------

def test_a_fourth_database_in_the_same_root_never_joins_the_442(fourth):
    _, root = fourth
    clips = read_root(root).clips
    three = clips[clips.database != "DFME"]
    for scope in MEGC2019.scopes:
        assert in_scope(clips, scope).equals(in_scope(three, scope)), scope
        assert list(in_scope(with_labels(clips), scope).clip_id) == \
            list(in_scope(with_labels(three), scope).clip_id)
    assert check_counts(clips).drop(columns="removed").equals(
        check_counts(three).drop(columns="removed"))
    assert protocols.membership_hash(clips) == protocols.membership_hash(three)
    rules = dict(with_labels(clips).attrs["left_out"])
    assert rules["DFME/person_001/1_0"] == "DFME is no part of megc2019"  # and that is said


def test_a_protocol_of_its_own_takes_it(fourth):
    _, root = fourth
    clips = read_root(root).clips
    labelled = with_labels(clips, "four")
    assert len(in_scope(labelled, "composite", "four")) == len(with_labels(clips)) + 12
    assert set(in_scope(labelled, "DFME", "four").label) == set(protocols.CLASSES)
    assert protocols.classes_of("four", "composite") == protocols.CLASSES
    assert protocols.protocol_of("native").labels["DFME"]["fear"] == "fear"
    with pytest.raises(ValueError, match="scope under protocol 'native' must be one of"):
        in_scope(clips, "composite", "native")


def test_a_protocol_that_forgets_a_database_it_names(forget):
    with pytest.raises(ValueError, match="protocol 'three' names SAMM and does not say"):
        replace(MEGC2019, name="three", labels={d: MEGC2019.labels[d] for d in
                                                ("CASME II", "SMIC-HS")})


def test_the_example_of_contributing_is_sound(forget, tmp_path):
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    example, = re.findall(r"```python\n(MINE = Database.*?)```", text, re.S)
    (tmp_path / "mine.py").write_text(
        "from mfdan.data.casme2 import SHEET\n"
        "from mfdan.data.database import WORDS, CropRule, Database, Expected\n" + example)
    record, = load_database(tmp_path / "mine.py")
    (tmp_path / "copy").mkdir()
    fabricate(tmp_path / "copy", record, made_clips(record, 4))
    assert len(read_root({"MINE": tmp_path / "copy"}).clips) == 4


# -- databases that look alike ----------------------------------------------------------------

LIKE = '''
from dataclasses import replace
from mfdan.data.registry import record_of

CASME2 = record_of("CASME II")
FIRST = replace(CASME2, name="TWIN", rate=60, embedded=None, layouts=(
    "TWIN_raw_selected/{subject}/{clip}/img{frame}.jpg",),
    sheet=replace(CASME2.sheet, official="twin.xlsx", file=r"twin\\.xlsx"))
'''


@pytest.mark.parametrize("there", [("CASME II",), ("TWIN",), ("TWIN", "CASME II")])
def test_databases_whose_folders_look_alike_are_told_by_their_annotation(forget, tmp_path, there):
    (tmp_path / "twin.py").write_text(LIKE)
    first, = load_database(tmp_path / "twin.py")
    root = tmp_path / "copy"
    for name in there: fabricate(root, record_of(name), made_clips(record_of(name), 3 + len(name)))
    reading = read_root(root)
    assert reading.clips.groupby("database").size().to_dict() == {n: 3 + len(n) for n in there}
    assert reading.left_out.empty, reading.summary()
    absent = {*MEGC2019.databases} - {*there}
    assert {p.clip_id for p in reading.problems.itertuples()} == absent
    assert all(f"/{record_of(c.database).layouts[0].split('/')[0]}/" in str(p)
               for c in reading.clips.itertuples() for p in c.frames.values())


# -- corrections ------------------------------------------------------------------------------

def test_a_correction_is_applied_and_said(fourth):
    record, root = fourth
    registry.RECORDS["DFME"] = replace(record, corrections=(
        Correction("person_001/1_0", "apex", 4, source="a user, 2024", why="a typing error"),))
    reading = read_root({"DFME": root})
    row = reading.clips.set_index("clip_id").loc["DFME/person_001/1_0"]
    assert row.apex == 4 and reading.left_out.empty
    said, = reading.problems.itertuples()
    assert said.problem == "its apex 3 is an error: a typing error"
    assert said.what_to_do == "4 is used (a user, 2024)"


# -- bad input --------------------------------------------------------------------------------

BAD = {  # what is changed in the file, and the one line that says so
    "no crop rule": ('crop=CropRule("centre", 24),', "",
                     r"DFME: it has no crop rule; say crop=CropRule\('landmarks'\), or another"),
    "a crop rule that nobody knows": ('CropRule("centre", 24)', 'CropRule("nose")',
                                      "crop must be one of 'landmarks', 'centre', 'as distri"),
    "a missing part": ("rate=500,", "", r"DFME: its record lacks rate; say it in `Database\("),
    "no annotation": ("sheet=Sheet(", "names=None and Sheet(", "say either its `sheet`, or `name"),
    "a pattern without a group": (r"f(\\d+)\\.png".replace("\\\\", "\\"), r"f\d+\.png",
                                  "DFME: its pattern of a frame must have one group, the number"),
    "a class that no emotion gives": ('native=("fear",', 'native=("rage",', "no emotion gives it"),
    "a layout without clips": ("{clip}/color", "color", "must hold {clip} and {frame}"),
    "a name that is taken": ('name="DFME"', 'name="SAMM"',
                             "SAMM: this name is taken; give the database of dfme.py another"),
    "a protocol whose name is taken": ('"four", (*MEGC', '"native", (*MEGC', "this name is taken"),
    "no record": ("DFME = Database(", "made = dict(", "defines no database; write `X = Database"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_record_that_is_not_sound_is_refused_in_one_line(file, case):
    old, new, says = BAD[case]
    assert old in DFME
    file.write_text(DFME.replace(old, new))
    known = list(databases())
    with pytest.raises(ValueError, match=says) as error: load_database(file)
    assert "\n" not in str(error.value) and list(databases()) == known
    file.write_text(DFME)
    assert [record.name for record in load_database(file)] == ["DFME"]  # mended, it is taken


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.py: no such file; a database's record is a"):
        load_database(tmp_path / "none.py")


def test_a_database_that_nobody_knows(fourth, tmp_path):
    import numpy as np
    with pytest.raises(ValueError, match="database must be one of .*'CASME II', .*; got 'DMFE'"):
        read_root({"DMFE": tmp_path})
    with pytest.raises(ValueError, match="got 'DMFE'"):
        fit_crop(np.zeros((40, 40, 3), np.uint8), "DMFE")


def test_rows_that_its_function_does_not_understand_are_named(fourth):
    record, root = fourth
    (root / "DFME" / record.sheet.official).unlink()
    clips = clips_of(record)
    clips[0]["code"] = 9
    clips.append({**clips[1], "name": "1_99", "kind": "macro"})
    fabricate(root, record, clips)
    reading = read_root({"DFME": root})
    assert list(reading.left_out.problem) == ["its emotion '' is none of the database's"]
    noted = reading.problems[reading.problems.severity == "noted"]
    assert list(noted.clip_id) == ["DFME/person_002/1_99"]  # its frames, without a row
    assert len(reading.clips) == 11


# -- nobody else knows its name ---------------------------------------------------------------

ALLOWED = {  # file of the package -> why a database's name may stand there
    "data/protocols.py": "a protocol names its databases",
    "data/units.py": "the cross-database protocol names its databases",
    "data/spotting.py": "a spotting set names its databases",
    "results/printed.py": "the paper's tables", "results/findings.py": "the paper's tables",
    "results/runs.py": "Tables V and VI are of one database",
    "bench/calibration.py": "scores of the real clips, slice by slice",
    "video/long.py": "published scores of spotting",
    **dict.fromkeys(("zoo/macnn.py", "zoo/micro_attention.py", "zoo/mmnet.py", "zoo/off_tanet.py"),
                    "what a published figure rests on"),
}


def names() -> re.Pattern:
    "What databases are called: in tables, and as modules, in any case."
    words = [record.name for record in databases().values()]
    words += registry.record_modules(PACKAGE / "data")
    found = "|".join(re.escape(word) for word in words)
    return re.compile(rf"(?<![a-z])({found})(?![a-z])", re.I)


def spoken(tree: ast.Module):
    "Line and text of every name and string of a module, but docstrings."
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    silent = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented)
              and node.body and isinstance(node.body[0], ast.Expr)}
    for node in ast.walk(tree):
        text = {ast.Name: "id", ast.Attribute: "attr", ast.FunctionDef: "name",
                ast.ClassDef: "name", ast.ImportFrom: "module", ast.alias: "name",
                ast.arg: "arg", ast.keyword: "arg", ast.Constant: "value"}.get(type(node))
        said = getattr(node, text) if text else None
        if isinstance(said, str) and id(node) not in silent:
            yield getattr(node, "lineno", 0), said.replace("_", " ")


def named_elsewhere(package: Path) -> list[str]:
    "Where a database's name stands outside its own file and the files that may hold it."
    own, found = {f"data/{name}.py" for name in registry.record_modules(package / "data")}, []
    named = names()
    for path in sorted(package.rglob("*.py")):
        short = path.relative_to(package).as_posix()
        if path.name == "_modidx.py" or short in own or short in ALLOWED: continue
        for line, text in spoken(ast.parse(path.read_text(encoding="utf-8"))):
            if named.search(text): found.append(f"{short}:{line}: {text[:60]}")
    return found


def test_no_file_but_its_own_knows_a_database(): assert named_elsewhere(PACKAGE) == []


def test_the_list_of_exceptions_is_no_longer_than_it_must_be():
    named = names()
    for short in ALLOWED:
        text = (PACKAGE / short).read_text(encoding="utf-8")
        assert any(named.search(said) for _, said in spoken(ast.parse(text))), \
            f"{short} names no database: take it from ALLOWED"


@pytest.mark.parametrize("where, line, says", [
    ("pixels/align.py", 'def odd(name): return name == "SMIC-HS"', "SMIC-HS"),
    ("data/reader.py", 'SHIFT = {"casme ii": 1}', "casme ii"),
    ("data/root.py", "def read_samm(place): return place", "read samm"),
    ("training/plan.py", "from ..data.casme2 import CASME2", "data.casme2"),
    ("corpus/write.py", "x = (lambda samm: samm)(1)", "samm"),
])
def test_a_planted_name_is_found(tmp_path, where, line, says):
    package = tmp_path / "mfdan"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    file = package / where
    file.write_text(file.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    found = named_elsewhere(package)
    assert found and all(entry.startswith(f"{where}:") for entry in found) and says in found[0]


def test_a_record_of_the_package_is_one_file(tmp_path):
    "Taken away, its file takes the database with it, and the others are read as before."
    package = tmp_path / "mfdan"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "data/samm.py").unlink()
    root = layouts.write_all(tmp_path / "copy", layouts.few())
    code = ("import sys; from mfdan.data.root import read_root\n"
            "print(len(read_root({d: sys.argv[1] for d in ('CASME II', 'SMIC-HS')}).clips))")
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True,
                          cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.stdout.strip() == "6", done.stderr
