"""Every parser of a user's files, fed with what nobody would write.

A parser may refuse, with an error that `cli.main` turns into a line; nothing else may come out.
MFDAN_FUZZ_SECONDS is the time of each parser (2.5 by default: half a minute in all); the slow
variant takes ten minutes, or MFDAN_FUZZ_LONG seconds.
"""
import copy
import csv
import io
import json
import os
import time
from pathlib import Path

import layouts
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from layouts import few
from openpyxl import Workbook

from mfdan.core.config import FitConfig, TrainConfig
from mfdan.core.files import MARKER, read_json, stable_hash
from mfdan.data.planted import planted
from mfdan.data.prepared import load_prepared, read_clips, save_prepared
from mfdan.data.problems import LeftOut, Log
from mfdan.data.protocols import CLASSES, PROTOCOLS, file_faults, load_protocol, protocol_from
from mfdan.data.reader import Place, read_apex_index, read_database
from mfdan.data.registry import record_of
from mfdan.data.root import corpus_of
from mfdan.network.settings import MFDANConfig
from mfdan.results.certificate import KIND, check_certificate, packed_scores, seal
from mfdan.results.verify import in_words, verify
from mfdan.training.audit import audit_fold
from mfdan.training.bank import Bank, side_statistics
from mfdan.training.fold import train_fold
from mfdan.training.plan import Run, plan
from mfdan.training.store import keep_fold, read_fold
from mfdan.video.model import UNKNOWN, everybody, load_model, make_card, save_model
from mfdan.video.recognise import model_lines, prepare_settings
from mfdan.zoo.contract import build, method_of
from mfdan.zoo.linear import LinearConfig

pytestmark = pytest.mark.filterwarnings("ignore:.*holds no digests")
SHORT = float(os.environ.get("MFDAN_FUZZ_SECONDS", "2.5"))
LONG = float(os.environ.get("MFDAN_FUZZ_LONG", "600"))

# -- what is fed ------------------------------------------------------------------------------

numbers = st.integers() | st.floats() | st.sampled_from([10**400, -1, 0, 2**63, 1e308])
texts = st.text(max_size=20) | st.sampled_from(
    ["", "../x", "/etc/passwd", "\x00", "\ud800", "9" * 5000, "1e999", "nan", "１２", "s1_ne_01"])
values = st.recursive(st.none() | st.booleans() | numbers | texts, lambda inner: st.lists(
    inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=8)
cells = st.none() | st.booleans() | numbers | texts


@st.composite
def spoilt_bytes(draw, whole: bytes):
    "A sound file, cut, doubled, overwritten here and there."
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["cut", "write", "insert", "repeat"]))
        new = draw(st.binary(min_size=1, max_size=12))
        if kind == "cut":
            del data[place:]
        elif kind == "write":
            data[place:place + len(new)] = new
        elif kind == "insert":
            data[place:place] = new
        else:
            data[place:place] = data[max(0, place - 200):place]
    return bytes(data)


@st.composite
def spoilt_json(draw, whole):
    "A sound JSON value with some of its parts removed or made something else."
    made = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        part, depth = made, draw(st.integers(1, 4))
        for level in range(depth):
            places = list(part) if isinstance(part, dict) else range(len(part))
            if not len(places): break
            place = draw(st.sampled_from(places))
            if level + 1 < depth and isinstance(part[place], (dict, list)):
                part = part[place]
                continue
            if draw(st.booleans()):
                del part[place]
            else:
                part[place] = draw(values)
            break
    return made


def spoilt_rows(rows):
    "A sound sheet with odd cells, odd lengths, odd rows."
    @st.composite
    def strategy(draw):
        made = [list(row) for row in rows]
        for _ in range(draw(st.integers(1, 6))):
            row = draw(st.integers(0, len(made)))
            if row == len(made):
                made.append(draw(st.lists(cells, max_size=12)))
            elif draw(st.integers(0, 5)) == 0:
                made[row] = draw(st.lists(cells, max_size=12))
            elif made[row]:
                made[row][draw(st.integers(0, len(made[row]) - 1))] = draw(cells)
        return made
    return strategy()


def as_csv(rows) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().encode(errors="surrogatepass")


def as_xlsx(rows) -> bytes:
    book, out = Workbook(), io.BytesIO()
    for number, row in enumerate(rows, 1):
        for place, cell in enumerate(row, 1):
            if isinstance(cell, str): cell = "".join(c for c in cell if c.isprintable())
            if isinstance(cell, int) and abs(cell) > 2**63: cell = str(cell)[:300]
            book.active.cell(number, place, cell)
    book.save(out)
    return out.getvalue()


# -- what is asked ----------------------------------------------------------------------------

def one_line(text: str) -> None:
    assert text.strip() and len(text.splitlines()) == 1, repr(text)


def feed(strategy, parse, seconds: float) -> int:
    "Feed a parser until its time is over; how many files it got."
    count = 0

    def ask(thing):
        nonlocal count
        count += 1
        try:
            parse(thing)
        except (ValueError, OSError, RuntimeError) as error:  # what `cli.main` turns into a line
            one_line(str(error))

    end, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        once = settings(max_examples=15, deadline=None, database=None,
                        suppress_health_check=list(HealthCheck))(given(strategy)(ask))
        seed(rounds)(once)()
        rounds += 1
    return count


def named(log: Log) -> None:
    for problem in log:
        for field in (problem.problem, problem.what_to_do, problem.clip_id): one_line(field or "-")


class Home:
    "Sound files to be spoilt, and where their parsers look for them."

    def __init__(self, folder: Path):
        self.copy = layouts.write_all(folder / "copy", few())
        self.whole = save_prepared(planted(4, 6, size=28), folder / "prepared").folder
        self.data = planted(4, 6, size=28)
        self.run = Run("linear", "composite", LinearConfig(), FitConfig())
        self.fold = plan(self.data, self.run)[0]
        self.record = json.loads(json.dumps(
            train_fold(self.data, self.fold, self.run.model, self.run.train)))
        self.folder = folder


@pytest.fixture(scope="module")
def home(tmp_path_factory): return Home(tmp_path_factory.mktemp("fuzz"))


def annotation(home, suffix):
    record, file = record_of("CASME II"), home.folder / f"casme2-coding{suffix}"
    rows = layouts.casme2_rows(few()["CASME II"])
    write = as_csv if suffix == ".csv" else as_xlsx

    def parse(data):
        file.write_bytes(data if isinstance(data, bytes) else write(data))
        log = Log()
        place = Place(record, home.copy / "CASME2/CASME2_RAW_selected", file, "licensed")
        try:
            read_database(place, {}, log)
        except LeftOut as why:
            log.left_out(record.name, why)
            raise
        finally: named(log)
    return spoilt_rows(rows) | spoilt_bytes(write(rows)), parse


def marker(home):
    file = home.folder / "marked" / MARKER
    file.parent.mkdir(exist_ok=True)
    sound = {"corpus": "quick", "seed": 0}

    def parse(thing):
        file.write_bytes(thing if isinstance(thing, bytes) else json.dumps(thing).encode())
        assert isinstance(corpus_of(file.parent), str)
    return spoilt_json(sound) | values | spoilt_bytes(json.dumps(sound).encode()), parse


def meta(home):
    file = home.whole / "meta.json"
    sound = json.loads(file.read_text())

    def parse(thing):
        file.write_bytes(thing if isinstance(thing, bytes) else json.dumps(thing).encode())
        load_prepared(home.whole)
    without = {k: v for k, v in sound.items() if k != "digests"}
    whole = json.dumps(sound).encode()
    return spoilt_json(sound) | spoilt_json(without) | spoilt_bytes(whole), parse


def clip_table(home):
    file = home.folder / "clips.csv"
    whole = (home.whole / "clips.csv").read_bytes()
    rows = list(csv.reader(io.StringIO(whole.decode())))

    def parse(thing):
        file.write_bytes(thing if isinstance(thing, bytes) else as_csv(thing))
        table = read_clips(file)
        assert table.clip_id.is_unique and str(table.onset.dtype) == "int64"
    return spoilt_rows(rows) | spoilt_bytes(whole), parse


def fold_file(home):
    store = home.folder / "folds"

    def parse(thing):
        if isinstance(thing, bytes):
            store.mkdir(exist_ok=True)
            (store / "abc.json").write_bytes(thing)
        else:
            thing = {"key": "abc"} | thing
            body = thing | {"digest": stable_hash(thing, 64)}
            store.mkdir(exist_ok=True)
            (store / "abc.json").write_text(json.dumps(body))
        record, problem = read_fold(store, "abc")
        if problem: one_line(problem)
        for line in audit_fold(home.data, home.fold, home.run, record, {}) if record else ():
            one_line(line)
    whole = keep_fold(store, "abc", home.record).read_bytes()
    return spoilt_json(home.record) | spoilt_bytes(whole), parse


def apex_index(home, suffix=".csv"):
    file, record = home.folder / f"data_apex{suffix}", record_of("SMIC-HS")
    layouts.write_index(home.folder / "sound.csv", few()["SMIC-HS"])
    rows = list(csv.reader(io.StringIO((home.folder / "sound.csv").read_text())))
    write = as_csv if suffix == ".csv" else as_xlsx

    def parse(thing):
        file.write_bytes(thing if isinstance(thing, bytes) else write(thing))
        log = Log()
        read_apex_index(file, record, log)
        named(log)
    return spoilt_rows(rows) | spoilt_bytes(write(rows)), parse


def certificate(home):
    file, rows = home.folder / "certificate.json", []
    for i, (true, pred) in enumerate(["np", "pp", "ss", "nn"]):
        names = {name[0]: name for name in CLASSES}
        prob = [0.5 if name == names[pred] else 0.25 for name in CLASSES]
        rows.append({"clip": f"{i:016x}", "subject": "b" * 16, "scope": "SAMM", "seed": 0,
                     "true": names[true], "pred": names[pred], "prob": prob})
    sound = {"what": KIND, "classes": list(CLASSES), "about": {"profile": "quick"},
             "folds with leaks": 0, "scores": packed_scores(rows), "predictions": rows}
    file.write_text(json.dumps(seal(sound)))
    assert check_certificate(file).ok, check_certificate(file)

    def parse(thing):
        if isinstance(thing, dict) and "what" in thing: thing = seal(thing)
        file.write_bytes(thing if isinstance(thing, bytes) else json.dumps(thing).encode())
        for line in check_certificate(file).lines: one_line(line)
    return spoilt_json(sound) | values | spoilt_bytes(json.dumps(seal(sound)).encode()), parse


def about(home):
    folder = home.folder / "quick-smoke"
    folder.mkdir(exist_ok=True)
    sound = {"root": "quick", "profile": "smoke", "seeds": [0], "prepared": "0123456789ab"}

    def parse(thing):
        file = folder / "table_3.json"
        file.write_bytes(thing if isinstance(thing, bytes) else json.dumps(thing).encode())
        one_line(in_words(verify(folder)))
    return spoilt_json(sound) | values | spoilt_bytes(json.dumps(sound).encode()), parse


def protocol(home):
    file = home.folder / "mine.toml"
    sound = 'name = "mine"\nclasses = ["negative", "positive"]\ncomposite = true\n' \
            '[labels."CASME II"]\ndisgust = "negative"\nhappiness = "positive"\n'
    plain = {"name": "mine", "classes": ["negative", "positive"],
             "labels": {"SAMM": {"anger": "negative"}}, "composite": True}

    def parse(thing):
        try:
            if isinstance(thing, bytes):
                file.write_bytes(thing)
                load_protocol(file)
            elif said := file_faults(thing):  # as if a file had said so
                one_line(said)
            else: protocol_from(thing)
        finally: PROTOCOLS.pop("mine", None)
    return spoilt_bytes(sound.encode()) | spoilt_json(plain), parse


def a_model(folder: Path) -> Path:
    "A model of made-up clips that learned nothing."
    data = planted(4, 6, size=28)
    run = Run("tiny", "composite", MFDANConfig(image_size=28, width=12, heads=(1, 2), mergings=0),
              TrainConfig(epochs=1))
    fold, bank = everybody(data, run), Bank(data, method_of(run.model).inputs(run.model))
    network = build(run.model, 3).eval()
    card = make_card(data, fold, run, UNKNOWN, network, side_statistics(bank.power, fold))
    return save_model(folder, network, card)


def card(home):
    folder = a_model(home.folder / "model")
    sound = {k: v for k, v in read_json(folder / "card.json").items() if k != "digest"}

    def parse(thing):
        if isinstance(thing, dict): thing = thing | {"digest": stable_hash(thing, 64)}
        (folder / "card.json").write_bytes(
            thing if isinstance(thing, bytes) else json.dumps(thing).encode())
        model = load_model(folder)
        for line in (*str(model).splitlines(), *model_lines(model.card)): one_line(line)
        prepare_settings(model.card)
    return spoilt_json(sound) | values | spoilt_bytes(json.dumps(sound).encode()), parse


PARSERS = {
    "annotation.xlsx": lambda home: annotation(home, ".xlsx"),
    "annotation.csv": lambda home: annotation(home, ".csv"),
    "certificate": certificate, "provenance": about, "marker": marker, "meta.json": meta,
    "clips.csv": clip_table, "fold": fold_file, "protocol": protocol, "card": card,
    "apex index.csv": apex_index, "apex index.xlsx": lambda home: apex_index(home, ".xlsx"),
}


@pytest.mark.parametrize("parser", PARSERS)
def test_a_parser_gives_a_line_or_a_value(home, parser):
    assert feed(*PARSERS[parser](home), SHORT) > 5


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("parser", PARSERS)
def test_a_parser_gives_a_line_or_a_value_for_ten_minutes(home, parser):
    count = feed(*PARSERS[parser](home), LONG)
    print(f"{parser}: {count} files in {LONG:g} s")
    assert count > LONG / 2
