"""Each guard finds its fault, planted in a small house, and nothing in a sound one."""
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import guards
import guards_of_modules as of_modules
import pytest

ROOT = Path(__file__).resolve().parents[1]
NETWORK, LOSSES = "nbs/network/00_windows.ipynb", "nbs/training/00_losses.ipynb"
WINDOWS, PAPER = "mfdan/network/windows.py", "nbs/paper/table.ipynb"


def notebook(*cells):
    "A notebook of code cells: a source, or the fields that differ from a bare cell's."
    made = [{"cell_type": "code", "id": f"c{i}", "execution_count": None, "outputs": [],
             "metadata": {}, **({"source": [c]} if isinstance(c, str) else c)}
            for i, c in enumerate(cells)]
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5},
                      indent=1, sort_keys=True) + "\n"


def component(exports, *cells):
    "A notebook that exports what the cells hold, each followed by a test."
    made = []
    for cell in cells: made += [f"#| export\n{cell}", "assert True"]
    return notebook(f"#| default_exp {exports}", *made)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture(scope="session")
def sound(tmp_path_factory):
    "The real settings, a module in each of two rooms, one paper notebook."
    root = tmp_path_factory.mktemp("sound")
    for name in ("settings.ini", "pyproject.toml"): shutil.copy(ROOT / name, root / name)
    write(root / "README.md", "")
    write(root / NETWORK, component("network.windows", "def one(): return 1"))
    write(root / LOSSES, component("training.losses", "def loss(): return 0"))
    tagged = {"source": ["seed: int = 0"], "metadata": {"tags": ["parameters"]}}
    write(root / PAPER, notebook(tagged))
    write(root / "mfdan/__init__.py", '__version__ = "0.1.0"\n')
    write(root / "tests/test_it.py", "")
    (root / "nbs/paper/.notest").touch()
    subprocess.run([Path(sys.executable).with_name("nbdev_export")], cwd=root, check=True,
                   capture_output=True)
    return root


@pytest.fixture
def house(sound, tmp_path): return shutil.copytree(sound, tmp_path / "mfdan")


@pytest.mark.parametrize("guard", guards.GUARDS, ids=lambda g: g.__name__)
def test_a_sound_house_passes(sound, guard): assert guard(sound) == []


def added(name, text): return lambda root: write(root / name, text)


def edited(name, old, new):
    def edit(root):
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))
    return edit


def with_line(line, name=WINDOWS): return edited(name, "def one", f"{line}\ndef one")


def inside(line): return edited(WINDOWS, "def one(): return 1", f"def one():\n    {line}\n")


def check(house, guard, plant, says):
    plant(house)
    assert any(line.startswith(says) for line in guard(house)), guard(house)


@pytest.mark.parametrize("plant, says", [
    (added("nbs/kitchen/00_pan.ipynb", notebook("#| default_exp kitchen.pan")),
     "nbs/kitchen/00_pan.ipynb: 'kitchen' is no room; move it to one of core, data, "),
    (added("nbs/pan.ipynb", notebook("#| default_exp pan")), "nbs/pan.ipynb: lies in no room"),
    (added("nbs/network/deep/00_pan.ipynb", notebook("#| default_exp network.pan")),
     "nbs/network/deep/00_pan.ipynb: lies in no room; move"),
    (added("nbs/network/pan.ipynb", notebook("#| default_exp network.pan")),
     "nbs/network/pan.ipynb: has no number; call it NN_name.ipynb"),
    (edited(NETWORK, "exp network.windows", "exp windows"),
     f"{NETWORK}: exports windows; its place asks for `#| default_exp network.windows`"),
    (edited(NETWORK, "#| default_exp network.windows", "pass"), f"{NETWORK}: exports None; its"),
    (added("nbs/cli.ipynb", notebook("#| default_exp command")), "nbs/cli.ipynb: exports command"),
    (added("nbs/paper/x.ipynb", notebook("#| default_exp x")), "nbs/paper/x.ipynb: exports x; a"),
    (added("nbs/network/00_pan.ipynb", notebook("#| default_exp network.pan")),
     f"{NETWORK}: number 00 is 00_pan.ipynb's"),
    (added("mfdan/network/old.py", ""), "mfdan/network/old.py: no notebook exports it; delete it"),
])
def test_a_notebook_out_of_place_is_found(house, plant, says):
    check(house, guards.places, plant, says)


@pytest.mark.parametrize("plant, says", [
    (edited(PAPER, '"parameters"', '"other"'), f"{PAPER}: no cell is tagged 'parameters'"),
    (edited(PAPER, '"outputs": []',
            '"outputs": [{"name": "stdout", "output_type": "stream", "text": ["1"]}]'),
     f"{PAPER}: outputs are committed"),
    (edited(PAPER, "seed: int = 0", "def f(): pass"), f"{PAPER}: defines a function or class"),
])
def test_a_paper_notebook_that_is_none_is_found(house, plant, says):
    check(house, guards.paper_notebooks, plant, says)


@pytest.mark.parametrize("plant, says", [
    (edited(WINDOWS, "return 1", "return 2"), f"{WINDOWS}: differs from what its notebook gives"),
    (edited(NETWORK, '"execution_count": null', '"execution_count": 7'), f"{NETWORK}: differs"),
])
def test_drift_is_found(house, plant, says): check(house, guards.drift, plant, says)


def test_a_name_from_elsewhere_is_found(house):
    check(house, of_modules.undefined_names, edited(WINDOWS, "return 1", "return elsewhere"),
          f"{WINDOWS}: Undefined name `elsewhere`")


ABOVE = "mfdan.training.losses, which does not lie below it (training 00 against network 00)"


@pytest.mark.parametrize("plant, says", [
    (with_line("from mfdan.training.losses import loss"), ABOVE),
    (with_line("from ..training.losses import loss"), ABOVE),
    (with_line("import mfdan.training.losses"), ABOVE),
    (with_line("from mfdan.training import losses"), ABOVE),
    (inside("from mfdan.training.losses import loss"), ABOVE),
    (inside("from mfdan.training import losses"), ABOVE),
    (inside("from ..training import losses"), ABOVE),
    (inside("return importlib.import_module('mfdan.training.losses')"), ABOVE),
    (inside("from mfdan import tvl1"), "mfdan, which does not lie below it (the top against netwo"),
])
def test_an_import_from_above_is_found(house, plant, says):
    plant(house)
    found, = of_modules.floors(house)
    assert found.startswith(WINDOWS) and f"imports {says}" in found


def test_an_import_from_a_higher_number_of_the_room_is_found(house):
    write(house / "nbs/network/01_block.ipynb", component("network.block", "def block(): pass"))
    write(house / "mfdan/network/block.py", "from .windows import one\n")
    assert of_modules.floors(house) == []
    check(house, of_modules.floors, inside("from .block import block"),
          f"{WINDOWS}:8: imports mfdan.network.block, which does not lie below it (network 01")


def test_imports_from_below_and_of_packages_pass(house):
    path = house / "mfdan/training/losses.py"
    path.write_text(path.read_text() + "from mfdan.network import windows\nimport mfdan.network\n"
                                       "from ..network.windows import one\n")
    assert of_modules.floors(house) == []


@pytest.mark.parametrize("plant, says", [
    (inside("from mfdan.network.doors import one"), f"{WINDOWS}: imports mfdan.network.doors.one"),
    (inside("from mfdan.core import doors"), f"{WINDOWS}: imports mfdan.core.doors, which is not"),
    (inside("from .doors import one"), f"{WINDOWS}: imports mfdan.network.doors.one, which is"),
    (inside("import mfdan.doors.one"), f"{WINDOWS}: imports mfdan.doors.one, which is not there"),
    (edited(PAPER, "seed: int = 0", "from mfdan.flow import tvl1"),
     f"{PAPER}, cell c0: imports mfdan.flow.tvl1, which is not there"),
])
def test_an_import_of_what_is_not_there_is_found(house, plant, says):
    check(house, of_modules.lost_imports, plant, says)


@pytest.mark.parametrize("plant, says", [
    (with_line("import cv2"), "mfdan.network.windows: a GPU node lacks cv2 (imported thro"),
    (with_line("from skimage import data"), "mfdan.network.windows: a GPU node lacks skimage"),
    (with_line("try: import dlib\nexcept ImportError: pass"), "mfdan.network.windows: a GPU no"),
    (added("mfdan/network/__init__.py", "import dlib"), "mfdan.network.windows: a GPU node lacks "
     "dlib (imported through mfdan.network.windows -> mfdan.network)"),
])
def test_a_heavy_import_is_found(house, plant, says):
    check(house, of_modules.heavy_imports, plant, says)


def test_a_heavy_import_is_found_through_a_room_that_may(house):
    write(house / "mfdan/pixels/align.py", "import dlib\n")
    write(house / "mfdan/pixels/__init__.py", "")
    assert of_modules.heavy_imports(house) == []
    check(house, of_modules.heavy_imports, with_line("from mfdan.pixels.align import dlib"),
          "mfdan.network.windows: a GPU node lacks dlib (imported through mfdan.network.windows -> "
          "mfdan.pixels.align)")


def test_a_heavy_import_inside_a_function_passes(house):
    inside("import cv2")(house)
    assert of_modules.heavy_imports(house) == []


@pytest.mark.parametrize("line, says", [
    ("os.replace(a, b)", "os.replace: only mfdan.core.files puts files into place"),
    ("from os import replace", "replace: only mfdan.core.files"),
    ("os.rename(a, b)", "os.rename: only mfdan.core.files"),
    ("shutil.move(a, b)", "shutil.move: only mfdan.core.files"),
    ("path.rename(other)", ".rename: only mfdan.core.files"),
    ("Path('.part').replace(other)", ".replace: only mfdan.core.files"),
    ("(folder / name).write_text('1')", ".write_text: only mfdan.core.files"),
    ("path.write_bytes(b'1')", ".write_bytes: only mfdan.core.files"),
    ("os.fsync(f.fileno())", "os.fsync: only mfdan.core.files"),
    ("tempfile.mkdtemp()", "tempfile.mkdtemp: only mfdan.core.files"),
    ("tempfile.NamedTemporaryFile()", "tempfile.NamedTemporaryFile: only mfdan.core.files"),
    ("subprocess.run(['git', 'describe'])", "asks git: only mfdan.core.provenance does"),
    ("ask = ('git', '-C', here)", "asks git: only mfdan.core.provenance does"),
    ("os.popen('git describe')", "asks git: only mfdan.core.provenance does"),
    ("from importlib.metadata import version", "asks importlib.metadata: only mfdan.core.prov"),
    ("import platform", "asks platform: only mfdan.core.provenance does"),
])
def test_a_second_writer_or_asker_is_found(house, line, says):
    inside(line)(house)
    found, = of_modules.one_of_each(house)
    assert found.startswith(f"{WINDOWS}:8: {says}"), found


@pytest.mark.parametrize("line", [
    "table.rename(columns={'a': 'b'})", "column.rename('losses')", "text.replace('a', 'b')",
    "column.replace({'a': 'b'})", "replace(config, size=56)", "say('github', ['gitter'])",
])
def test_what_only_sounds_like_writing_passes(house, line):
    inside(line)(house)
    assert of_modules.one_of_each(house) == []


@pytest.mark.parametrize("line", ["def one(): return 2", "class one: pass"])
def test_a_name_for_two_things_is_found(house, line):
    check(house, of_modules.names_once, edited("mfdan/training/losses.py", "def loss", f"{line}\n"
          "def loss"), "mfdan.training.losses: one is defined in mfdan.network.windows already")


def test_a_private_name_and_a_twin_pass(house):
    for name in (WINDOWS, "mfdan/training/losses.py"):
        (house / name).write_text("def _one(): return 1\ndef main(): return 0\n")
    assert of_modules.names_once(house) == []


def test_a_long_module_is_found(house):
    check(house, of_modules.lengths, added(WINDOWS, "\n" * (of_modules.LONGEST + 1)),
          f"{WINDOWS}: 351 lines, at most 350: split")


def test_a_notebook_without_a_test_is_found(house):
    check(house, guards.tested, edited(NETWORK, "assert True", "one()"),
          f"{NETWORK}: exports code and tests nothing")


def body(lines): return "def f():\n" + "    x = 1\n" * (lines - 1)


@pytest.mark.parametrize("cells, says", [
    ([body(13)] * 3, "5 definition cells: median 13 lines (at most 12), 0.0% over 25"),
    ([body(26)], "3 definition cells: median 1 lines (at most 12), 33.3% over 25 (at most 5%)"),
])
def test_long_definitions_are_found(house, cells, says):
    name = "nbs/network/01_block.ipynb"
    check(house, guards.pages, added(name, component("network.block", *cells)), f"nbs: {says}")
    assert f"split by ideas, {name} first" in guards.pages(house)[0]


def unseen(n): return notebook(*["#| export\ndef f(): pass"] * n, "assert True")


def test_definitions_that_nobody_shows_are_found(house):
    check(house, guards.pages, added("nbs/network/01_block.ipynb", unseen(4)),
          "nbs: 6 definition cells: median 1 lines (at most 12), 0.0% over 25 (at most 5%), 50% f")


def test_five_definitions_in_a_row_are_found(house):
    name = "nbs/network/01_block.ipynb"
    write(house / name, unseen(5))  # the last is followed by a test
    assert not any(line.startswith(name) for line in guards.pages(house))
    check(house, guards.pages, added(name, unseen(6)),
          f"{name}: cells c0, c1, c2, c3, c4 define one after another (at most 4)")


@pytest.mark.parametrize("plant, says", [
    (added("tests/test_it.py", "try: f()\nfinally: g()\n"), "tests/test_it.py: `try: f()`: write"),
    (added("tests/test_it.py", "if a: b\nelse: c\n"), "tests/test_it.py: `if a: b`: write"),
    (added("tests/test_it.py", "if a:\n    b\nelif c: d\nelse: e\n"), "tests/test_it.py: `elif c"),
    (edited(NETWORK, "assert True", "try: one()\\nexcept OSError: pass"),
     f"{NETWORK}, cell c2: `try: one()`: write the body below"),
    (edited(PAPER, "seed: int = 0", "if a: b\\nelse: c"), f"{PAPER}, cell c0: `if a: b`: write"),
])
def test_crowded_lines_are_found(house, plant, says):
    check(house, guards.plain_lines, plant, says)


def test_a_short_condition_and_a_choice_pass(house):
    write(house / "tests/test_it.py", "if a: b\nc = d if e else f\ntry:\n    g\nfinally: h\n")
    assert guards.plain_lines(house) == []


@pytest.mark.parametrize("text, says", [
    ("[here](network/07_windows.ipynb)", "links to network/07_windows.ipynb, which is not there; "
     "it is 00_windows now"),
    ("[here](network/00_doors.ipynb)", "links to network/00_doors.ipynb, which is not there; mend"),
    ("[a](b) and [here](../LICENSE)", "links to ../LICENSE, which is not there; mend it"),
    ("see `07_windows`", "names 07_windows, which is not there; it is 00_windows now"),
    ("[07_windows](network/)", "names 07_windows, which is not there; it is 00_windows now"),
    ("[00_windows](network/00_windows.ipynb#idea), `00_windows`, [room](network/)", None),
    ("[away](https://example.org/a.html), [below](#below), [here](../settings.ini)", None),
])
def test_a_link_to_nothing_is_found(house, text, says):
    write(house / "nbs/index.ipynb", notebook({"cell_type": "markdown", "source": [text]}))
    found = guards.links(house)
    said = f"nbs/index.ipynb: {says}"
    assert [line[:len(said)] for line in found] == ([said] if says else [])


def test_a_readme_that_differs_is_found(house):
    write(house / "nbs/index.ipynb", notebook("print(1)"))
    check(house, guards.readme, lambda root: None, "README.md: does not agree with nbs/index.ipynb")


def test_contributing_says_the_numbers_of_the_guards():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for said in (f"at most {guards.MEDIAN} lines", f"at most {of_modules.LONGEST} lines",
                 f"at most {guards.SHARE_LARGE:.0%} have more than {guards.LARGE}",
                 f"at least {guards.SHARE_SEEN:.0%} of the definitions", "more than four in a row"):
        assert said in text, said
    assert guards.IN_A_ROW == 4


def test_every_guard_has_its_planted_fault():
    "A guard that no test here names would be believed and never seen to fail."
    text = Path(__file__).read_text()
    assert [g.__name__ for g in guards.GUARDS if f".{g.__name__}" not in text] == []


def test_a_damaged_notebook_is_named(house):
    edited(NETWORK, '"#| export', '"<<<<<<< ours\n"#| export')(house)
    with pytest.raises(SystemExit, match=f"{NETWORK}: is no notebook .*take one side of it whole"):
        guards.main(house)


def test_all_that_is_wrong_is_printed_with_the_figures(house, capsys):
    edited(PAPER, '"parameters"', '"other"')(house)
    assert guards.main(house) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(PAPER) and said[-1] == "guards: 1 findings in 3 notebooks"
    assert said[-2] == ("2 definition cells: median 1 lines (at most 12), 0.0% over 25 (at most "
                        "5%), 100% followed by a look or a test (at least 70%)")


def output(text):
    "A notebook whose stored output says something."
    shown = {"output_type": "stream", "name": "stdout", "text": [text]}
    return notebook("#| default_exp data.units",
                    {"source": ["print(folder)"], "outputs": [shown]}, "assert True")


@pytest.mark.parametrize("folder", [
    Path.home() / "mine", Path(tempfile.gettempdir()) / "tmpa1b2", ROOT, ROOT.parent / "cache",
    Path("/home") / "somebody/film.mp4"], ids=str)
@pytest.mark.parametrize("name, made", [
    ("nbs/data/00_units.ipynb", output), ("README.md", str), (".ci/env.sh", str)])
def test_a_folder_of_one_machine_is_found(house, monkeypatch, name, made, folder):
    write(house / name, made(f"written to {folder}/x\n"))
    around = guards.folders_of_a_machine(ROOT)  # the planted house lies elsewhere
    monkeypatch.setattr(guards, "folders_of_a_machine", lambda root: around)
    check(house, guards.private, lambda root: None, f"{name}: names {folder}"[:40])


def test_what_only_looks_like_a_folder_of_one_machine_passes(house):
    write(house / "README.md", f"~/databases, /usr/bin/env, {tempfile.gettempdir()}, nbs/home/a/b, "
                               f"https://example.org{Path.home()}/a, /nowhere\n")
    assert guards.private(house) == []


def test_two_cells_of_one_id_are_found(house):
    edited(LOSSES, '"id": "c1"', '"id": "c2"')(house)
    check(house, guards.unique_cells, lambda root: None, f"{LOSSES}: cells share the id c2")
