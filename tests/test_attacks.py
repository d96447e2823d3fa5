"""An attack on every command: hostile names, files, folders and arguments, each by its kind.

Each case is one command in this process. It holds if there is no traceback, the exit status is one
of those that `mfdan.cli` documents, complaints are one line each without control characters, and
nothing but the cache was written. A table of tried and held by kind ends the run.
"""
import json
import os
import shutil
from pathlib import Path

import layouts
import pytest
from test_faults import CASES, NINE, OTHER, PREPARED, Home, spoil
from test_fuzz import a_model
from test_hostile_files import FOLDERS, HOSTILE, SHEET
from test_silent import CASME2, SAMM, SMIC

from mfdan import cli
from mfdan.core.files import stable_hash
from mfdan.core.terminal import DEFECT
from mfdan.data.planted import planted
from mfdan.data.prepared import save_prepared
from mfdan.results.certificate import seal
from mfdan.training import cluster
from mfdan.training.store import FIELDS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
NAMES = [
    "..", "...", " ", "-", "--help", "~", "$HOME", "`id`", "$(touch here)", "a;b", "a|b", "a&b",
    "a'b", 'a"b', "a\\b", "%s%n", "{0}", "\x1b[2J", "\x07", "\n", "a\nmfdan: all is well", "\r",
    "\t", "\u202e", "\u200b", "\ufeff", "\ue000", "caf\u00e9", "cafe\u0301", "\u8868", "\U0001f600",
    "CON", "NUL", ".hidden", "x" * 250, "<script>", "=1+1", "@SUM(A1)", "sub01", "SUB01", "sub1",
    "sub01 ", "nan", "None", "1e9", "0x1", "\udcff"]
CELLS = [
    None, "", " ", True, -1, 0, 1e308, 10**18, 46.5, "46", "forty-six", "nan", "inf", "=1/0",
    "=cmd|' /C calc'!A0", "\x85", "\u2028", "x" * 30_000, "../../etc/passwd", "/etc/passwd", "a/b",
    "\u0661", "１２", "#REF!", "1,5", "46;47", "0046"]
IMAGES = {
    "empty": b"", "zeros": bytes(4000), "text": b"hello " * 99, "html": b"<script>1</script>",
    "a jpeg's head": b"\xff\xd8\xff\xe0\x00\x10JFIF",
    "an endless jpeg": b"\xff\xd8" + b"\xff" * 9999,
    "a huge bmp": b"BM" + (70).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
                  + (40).to_bytes(4, "little") + (2**31 - 1).to_bytes(4, "little") * 2
                  + b"\x01\x00\x18\x00" + bytes(24),
    "a huge png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x7f\xff\xff\xff\x7f\xff\xff\xff\x08\x02"
                  + bytes(60),
    "a gif": b"GIF89a\xff\xff\xff\xff\x00\x00\x00;",
    "a pickle": b"\x80\x04cos\nsystem\n(S'id'\ntR.",
    "a zip": b"PK\x03\x04" + bytes(200), "svg": b"<svg onload='x'/>",
    "tiff": b"II*\x00" + b"\xff" * 60}
MARKERS = [b'{"corpus": "%s"}' % name for name in (
    b"quick", b"full", b"", b"licensed", b"../x", b"x" * 9999, b"\\u001b[2J", b"\\ud800",
    b"CASME II")]
MARKERS += [b'{"corpus": %s}' % value for value in (
    b"null", b"1", b"[]", b"{}", b"true", b"NaN", b"1e999", b"9" * 5000)] + [*NINE.values()]


# -- where, and what holds ----------------------------------------------------------------------

TRIED: dict[str, list[bool]] = {}


@pytest.fixture(scope="module", autouse=True)
def table(request):
    "Printed when all is over."
    yield
    plugins = request.config.pluginmanager
    write = plugins.getplugin("terminalreporter").write_line
    with plugins.getplugin("capturemanager").global_and_fixture_disabled():
        write(f"\n{'attack':24}{'tried':>8}{'held':>8}")
        for kind, held in {**TRIED, "all": sum(TRIED.values(), [])}.items():
            write(f"{kind:24}{len(held):8}{sum(held):8}")


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    home = Home(tmp_path_factory.mktemp("attacked"))
    save_prepared(planted(4, 6, size=56), home.certificate.parent / "planted")
    return home.certificate.parent


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    "An empty folder to stand in, a home, and a cache: the only one that may be written."
    for name in ("here", "user"): (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("MFDAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cluster.connect, "__defaults__", (0.3,))
    return tmp_path


def seen(folder: Path) -> dict[str, tuple]:
    "All that lies outside the cache."
    found = {}
    for base, folders, files in os.walk(folder):
        if base == str(folder): folders[:] = [name for name in folders if name != "cache"]
        for name in (*folders, *files):
            about = os.lstat(os.path.join(base, name))
            found[os.path.join(base, name)] = about.st_mtime_ns, about.st_size, about.st_ino
    return found


def attack(kind: str, place: Path, capsys, *argv, may=(0, 1, 2, 3)) -> str:
    "One command; what it said."
    TRIED.setdefault(kind, []).append(False)
    before = seen(place)
    capsys.readouterr()
    try:
        status = cli.main([str(word) for word in argv])
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    assert status in may, (status, out, err)
    assert "Traceback" not in out + err and DEFECT not in err and "Errno" not in err, err
    for line in [*out.split("\n"), *err.split("\n")]:
        assert line.replace("\r", "").isprintable() or "%|" in line, repr(line)
    said = [line for line in err.split("\n") if line.startswith("mfdan")]
    assert len(said) <= 1, said  # what follows on it is a report
    assert status != 2 or err.count("\n") == len(said) == 1 and not out
    assert seen(place) == before, seen(place).items() ^ before.items()
    TRIED[kind][-1] = True
    return out + err


def copy_of(place: Path) -> Path: return layouts.write_all(place / "copy", layouts.few())


# -- the attacks --------------------------------------------------------------------------------

@pytest.mark.parametrize("case", CASES)
def test_arguments(place, capsys, monkeypatch, case):
    command, more, _ = CASES[case]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    attack("arguments", place, capsys, *filter(None, [command]), *more, may=(2,))


@pytest.mark.parametrize("command", ["check", "verify", "certificate", "certificate --check"])
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_that_are_asked_for(place, capsys, command, name):
    attack("names, asked for", place, capsys, *command.split(), "--", name)


@pytest.mark.parametrize("where", ["", f"{CASME2}/sub01", CASME2, f"{SAMM}/006",
                                   f"{SMIC}/s1/micro"])
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("..", ".")], ids=ascii)
def test_names_that_are_found(place, capsys, where, name):
    root = copy_of(place)
    try:
        (root / where / name).mkdir()
    except FileExistsError:
        (root / where / name / name).mkdir()
    attack("names, found", place, capsys, "check", root)


@pytest.mark.parametrize("case", HOSTILE)
def test_files_that_are_hostile(place, capsys, case):
    root = copy_of(place)
    HOSTILE[case][0](root)
    attack("links, pipes, sizes", place, capsys, "check", root, may=(1,))


@pytest.mark.parametrize("number", range(len(MARKERS)))
def test_markers(place, capsys, number):
    root = copy_of(place)
    (root / "mfdan-corpus.json").write_bytes(MARKERS[number])
    attack("markers", place, capsys, "check", root)


@pytest.mark.parametrize("column", [0, 1, 3, 4, 5, 8])
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: ascii(cell)[:20])
def test_sheets(place, capsys, cell, column):
    root = copy_of(place)
    rows = layouts.casme2_rows(layouts.few()["CASME II"])
    rows[1][column] = cell
    layouts.workbook(root / SHEET["CASME II"], rows)
    attack("sheets", place, capsys, "check", root)


@pytest.mark.parametrize("command", ["check", "prepare"])
@pytest.mark.parametrize("case", IMAGES)
def test_images(place, capsys, case, command):
    root = copy_of(place)
    for frame in [*(root / SAMM).rglob("*.jpg"), *(root / SMIC).rglob("*.bmp"),
                  *(root / CASME2 / "sub02").rglob("*.jpg")]:
        frame.unlink()
        frame.write_bytes(IMAGES[case])
    argv = ["check", root] if command == "check" else \
        ["prepare", "--workers", "1", "--profile", "smoke", "--corpus", root]
    attack("images", place, capsys, *argv, may=(1,))


PROTOCOLS = {**{f"{name}, as JSON": text for name, text in NINE.items()}, **{
    name: text.encode() for name, text in {
        "no TOML": "name = ", "a number": "name = 3\nclasses = []\n[labels]",
        "no labels": 'name = "a"\nclasses = ["x"]',
        "no classes": 'name = "a"\n[labels.SAMM]\nanger="x"',
        "labels of text": 'name = "a"\nclasses = ["x"]\nlabels = "SAMM"',
        "a database of text": 'name = "a"\nclasses = ["x"]\nlabels = {SAMM = "x"}',
        "a database of a list": 'name = "a"\nclasses = ["x"]\nlabels = {SAMM = ["x"]}',
        "a class of a list": 'name = "a"\nclasses = ["x"]\nlabels = {SAMM = {anger = ["x"]}}',
        "classes of lists": 'name = "a"\nclasses = [["x"]]\nlabels = {SAMM = {anger = "x"}}',
        "no database": 'name = "a"\nclasses = ["x"]\nlabels = {}\ncomposite = true',
        "an empty database": 'name = "a"\nclasses = ["x"]\nlabels = {SAMM = {}}',
        "the paper's name": 'name = "megc2019"\nclasses = ["x"]\nlabels = {SAMM = {anger = "x"}}',
        "a class that draws": 'name = "a"\nclasses = ["\\u001b[2J"]\nlabels = {}',
        "nested without end": "a = " + "[" * 50_000, "dots without end": "a" + ".a" * 50_000,
        "twice": 'name = "a"\nname = "b"'}.items()}}


@pytest.mark.parametrize("case", PROTOCOLS)
def test_protocols(place, capsys, case):
    (place / "mine.toml").write_bytes(PROTOCOLS[case])
    attack("protocols", place, capsys, "check", copy_of(place), "--protocol", place / "mine.toml",
           may=(2,))


ROOTS = {  # of a copy, what else is given
    "the same twice": lambda r: [r, r], "one that is not there": lambda r: [r, r / "none"],
    "one inside the other": lambda r: [r, r / "SAMM"], "the other way": lambda r: [r / "SAMM", r],
    "a file": lambda r: [r, r / SHEET["SAMM"]],
    "a link to the other": lambda r: [r, r.with_name("link")],
    "a copy of it": lambda r: [r, shutil.copytree(r, r.with_name("b"))],
    "each database alone": lambda r: [r / name for name in ("SMIC", "SAMM", "CASME2")],
    "nothing but files": lambda r: [r / SHEET["SAMM"], r / SHEET["CASME II"]],
    "a pipe": lambda r: [r, r.with_name("pipe")], "the disk": lambda r: [r, "/dev/null"],
    "a hundred": lambda r: [r] * 100}


@pytest.mark.parametrize("case", ROOTS)
def test_several_roots(place, capsys, case):
    root = copy_of(place)
    root.with_name("link").symlink_to(root)
    os.mkfifo(root.with_name("pipe"))
    attack("several roots", place, capsys, "check", *ROOTS[case](root))


@pytest.mark.parametrize("command", ["methods --", "fit --to m --method", "prepare --method"])
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_methods_that_are_asked_for(place, capsys, command, name):
    *words, last = command.split()
    words += [last, name] if last == "--" else [f"{last}={name}"]
    attack("methods, asked for", place, capsys, *words, may=(2,))


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_videos_that_are_asked_for(place, capsys, name):
    made = place / "here" / f"{name}.mp4"
    words = ["film", "--seconds", "0.1", "--fps", "10", "--width", "64", "--", f"{name}.mp4"]
    before, kind = seen(place), TRIED.setdefault("videos, asked for", [])
    status, err = cli_of(words, capsys)
    held = status in (1, 2) and seen(place) == before or status == 0 and (
        {*seen(place)} - {*before} == {str(made), str(made.with_suffix(".json"))})
    kind.append(held)
    assert held, (status, err)


def cli_of(words, capsys) -> tuple[int, str]:
    capsys.readouterr()
    try:
        status = cli.main(words)
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err and DEFECT not in err, err
    for line in (out + err).split("\n"): assert line.isprintable(), repr(line)
    return status, err


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path: return a_model(tmp_path_factory.mktemp("model") / "model")


@pytest.mark.parametrize("case", IMAGES)
@pytest.mark.parametrize("which", ["onset", "apex"])
def test_pictures(place, model, capsys, case, which):
    good = next((copy_of(place) / SAMM).rglob("*.jpg"))
    (place / "bad.jpg").write_bytes(IMAGES[case])
    pair = [good, place / "bad.jpg"][::1 if which == "apex" else -1]
    attack("pictures", place, capsys, "recognise", *pair, "--model", model, may=(1,))


CARD = ("method", "notices", "limits", "score", "data", "classes", "model", "train", "prepare",
        "stage", "size", "statistics", "probe", "versions", "weights", "format")


@pytest.mark.parametrize("value", [..., None, [], {}, "x", -1, float("nan"), [[["x"]]]], ids=str)
@pytest.mark.parametrize("name", CARD)
def test_models(place, model, capsys, name, value):
    folder = shutil.copytree(model, place / "model")
    card = {k: v for k, v in json.loads((folder / "card.json").read_text()).items()
            if k != "digest"} | {name: value}
    card = {k: v for k, v in card.items() if v is not ...}
    (folder / "card.json").write_text(json.dumps(card | {"digest": stable_hash(card, 64)}))
    frames = sorted((copy_of(place) / SAMM).rglob("*.jpg"))[:2]
    attack("models", place, capsys, "recognise", *frames, "--model", folder, may=(1,))


@pytest.mark.parametrize("file", ["card.json", "weights.safetensors"])
@pytest.mark.parametrize("shape", NINE)
def test_models_of_another_shape(place, model, capsys, file, shape):
    folder = shutil.copytree(model, place / "model")
    (folder / file).write_bytes(NINE[shape])
    attack("models", place, capsys, "recognise", "a.jpg", "b.jpg", "--model", folder, may=(1,))


CACHES = {
    "a file": lambda c: c.write_text(""), "a link to itself": lambda c: c.symlink_to(c),
    "a link to nowhere": lambda c: c.symlink_to("nowhere"), "a pipe": os.mkfifo,
    "files where folders are": lambda c: [
        c.mkdir(), *[(c / name).write_text("") for name in ("folds", "parts", "corpora")]],
    "names of its own kinds": lambda c: [(c / "prepared").mkdir(parents=True), *[
        (c / "prepared" / name).mkdir() for name in (*NAMES[6:12], "0123456789ab")]],
    "a loop in it": lambda c: [(c / "folds").mkdir(parents=True),
                               (c / "folds/0123456789ab.json").symlink_to("0123456789ab.json")],
    "pipes in it": lambda c: [(c / "folds").mkdir(parents=True),
                              os.mkfifo(c / "folds/0123456789ab.json")]}


@pytest.mark.parametrize("command", ["clean --yes", "doctor", "verify products"])
@pytest.mark.parametrize("case", CACHES)
def test_caches(place, sound, capsys, monkeypatch, command, case):
    CACHES[case](place / "cache")
    shutil.copytree(sound / "quick-smoke", place / "here/products")
    monkeypatch.setattr("mfdan.results.doctor.what_it_takes", lambda: "")
    attack("caches", place, capsys, *command.split())


@pytest.mark.parametrize("case", FOLDERS)
def test_prepared_folders(place, sound, capsys, case):
    folder = shutil.copytree(sound / "planted", place / "prepared")
    FOLDERS[case](folder)
    attack("prepared folders", place, capsys, "loso", "--profile", "smoke", "--workers", "1",
           "--prepared", folder, may=(1,))


@pytest.mark.parametrize("case", PREPARED)
def test_prepared_folders_of_products(place, sound, capsys, case):
    shutil.copytree(sound / "cache", place / "cache")
    shutil.copytree(sound / "quick-smoke", place / "products")
    name, spoilt = PREPARED[case]
    spoilt(place / "cache/prepared/0123456789ab" / name)
    attack("prepared folders", place, capsys, "verify", place / "products", may=(1,))


@pytest.mark.parametrize("value", [..., None, [], {}, "x", -1, float("nan"), [[["x"]]]], ids=str)
@pytest.mark.parametrize("name", FIELDS)
def test_folds(place, sound, capsys, name, value):
    shutil.copytree(sound / "cache", place / "cache")
    shutil.copytree(sound / "quick-smoke", place / "products")
    fold = sorted((place / "cache/folds").glob("*.json"))[0]
    record = {k: v for k, v in json.loads(fold.read_text()).items() if k != "digest"}
    record[name] = value
    record = {k: v for k, v in record.items() if v is not ...}
    fold.write_text(json.dumps(record | {"digest": stable_hash(record, 64)}))
    attack("folds", place, capsys, "verify", place / "products")


@pytest.mark.parametrize("case", [*OTHER, *NINE])
def test_certificates(place, sound, capsys, case):
    file = Path(shutil.copy(sound / "certificate.json", place))
    if case in NINE:
        file.write_bytes(NINE[case])
    else:
        spoil(file, **OTHER[case])
        content = json.loads(file.read_text())
        if content.pop("sha256", None) and "sha256" not in OTHER[case]:
            file.write_text(json.dumps(seal(content)))
    attack("certificates", place, capsys, "certificate", "--check", file, may=(1,))


@pytest.mark.parametrize("shape", NINE)
@pytest.mark.parametrize("file", ["table_3.json", "a.json", "zzz.json"])
def test_provenance(place, sound, capsys, file, shape):
    shutil.copytree(sound / "cache", place / "cache")
    products = shutil.copytree(sound / "quick-smoke", place / "products")
    (products / file).write_bytes(NINE[shape])
    attack("provenance", place, capsys, "verify", products, may=(1,))
