"""Each database as its owners distribute it, with all its traps: counts, labels, events exact."""
import re
import shutil
from collections import Counter

import layouts
import more_layouts as more
import pandas as pd
import pytest

from mfdan.cli import main
from mfdan.data.check import check_root
from mfdan.data.protocols import (
    MEGC2019,
    PROTOCOLS,
    check_counts,
    expected_counts,
    load_protocol,
    membership_hash,
    with_labels,
)
from mfdan.data.root import read_root
from mfdan.data.spotting import event_counts, spotting_set
from mfdan.data.units import CD6ME, leave_one_database_out, unit_table
from mfdan.data.videos import read_videos


def clips_of(reading) -> dict:
    return {r.clip_id: (r.emotion, int(r.onset), int(r.apex), int(r.offset))
            for r in reading.clips.itertuples()}


def events_of(videos) -> dict:
    return {"/".join([*r.video_id.split("/")[:2], r.name_]): (
        r.kind, int(r.onset), None if pd.isna(r.apex) else int(r.apex), int(r.offset), r.emotion)
        for r in videos.events.rename(columns={"name": "name_"}).itertuples()}


def said(problems, words) -> Counter:
    "The clips of the lines that hold some words."
    return Counter(p.clip_id for p in problems.itertuples() if words in p.problem)


def native_counts(reading) -> dict:
    counts = check_counts(reading.clips, "native")
    return {(r.database, r._2): (r.found, r.expected) for r in counts.itertuples() if r._2 != "-"}


# -- clips ------------------------------------------------------------------------------------

def test_casme(tmp_path):
    expected = more.write_casme(tmp_path)
    reading = read_root({"CASME": tmp_path})
    assert clips_of(reading) == expected and len(expected) == 189
    assert reading.left_out.empty, reading.summary()
    assert len(said(reading.problems, "is an error")) == 5
    assert sum(said(reading.problems, "is an error").values()) == 11  # cells of five rows
    assert sum(said(reading.problems, "a second apex is annotated").values()) == 1
    assert said(reading.problems, "how its frames are called was not confirmed")["CASME"] == 1
    assert not said(reading.problems, "no usable row")
    assert native_counts(reading) == {("CASME", "clips"): (189, 189)}


@pytest.mark.parametrize("flat", [False, True])
def test_casme_is_told_from_casme2(tmp_path, flat):
    "Subjects have the same names; in a flat copy even the sheets lie side by side."
    expected = more.write_casme(tmp_path)
    layouts.write_casme2(tmp_path, layouts.few()["CASME II"])
    if flat:
        for folder in ("CASME", "CASME2"):
            for path in list((tmp_path / folder).iterdir()): path.rename(tmp_path / path.name)
            (tmp_path / folder).rmdir()
    reading = read_root(tmp_path)
    found = clips_of(reading)
    assert {k: v for k, v in found.items() if k.startswith("CASME/")} == expected
    assert len(found) == len(expected) + 3 and reading.left_out.empty, reading.summary()


def test_corrections_are_switched_off_and_hold_for_their_own_edition(tmp_path):
    expected = more.write_casme(tmp_path)
    off = read_root({"CASME": tmp_path}, corrections="none")
    assert not said(off.problems, "is an error")
    wrong = {k for k, v in clips_of(off).items() if v != expected[k]}
    lost = set(expected) - set(clips_of(off))
    assert len(wrong | lost) == 5 and len(lost) == 3  # of three not even the onset is there
    sheet = tmp_path / "CASME/casme.xlsx"
    rows = [["Subject", "Filename", None, "OnsetF", "ApexF1", "ApexF2", "OffsetF", None, "AU",
             "Emotion"]]
    from mfdan.data.sheets import sheet_rows
    more.book(sheet, {"Sheet1": rows + [list(row) for row in sheet_rows(sheet)[1:-1]]})  # 188 rows
    assert not said(read_root({"CASME": tmp_path}).problems, "is an error")


@pytest.mark.parametrize("layout", ["people", "emotions"])
def test_mmew(tmp_path, layout):
    expected = more.write_mmew(tmp_path, layout)
    reading = read_root({"MMEW": tmp_path})
    assert clips_of(reading) == expected and len(expected) == 300
    assert reading.left_out.empty, reading.summary()
    assert len(said(reading.problems, "is an error")) == 16
    assert said(reading.problems, "public lists contradict each other")["MMEW"] == 1
    assert not said(reading.problems, "its folder says")  # repression and others are one class
    assert native_counts(reading) == {("MMEW", "clips"): (300, 300), ("MMEW", "subjects"): (36, 36)}


def test_casme3_part_a(tmp_path):
    expected, _ = more.write_casme3_a(tmp_path)
    reading = read_root({"CAS(ME)³ A": tmp_path})
    found = clips_of(reading)
    assert set(found) == set(expected) and len(expected) == 858
    for clip, (emotion, onset, apex, offset) in expected.items():
        assert (found[clip][0], found[clip][1], found[clip][3]) == (emotion, onset, offset), clip
        assert apex is None or found[clip][2] == apex, clip
    sources = Counter(reading.clips.apex_source)
    assert sources == {"annotation": 858 - 55, "middle": 55}
    assert sum(said(reading.problems, "its apex on its onset").values()) == 55
    assert len(said(reading.left_out, "is not before its offset")) == 2  # durations below zero
    assert len(said(reading.problems, "it lasts ")) == 72
    assert sum(said(reading.problems, "it lasts 3457 frames, 115.2 s").values()) == 1
    assert len(said(reading.problems, "is an error")) == 5
    contradicted, = said(reading.problems, "public lists contradict each other on its apex")
    line = reading.problems[reading.problems.clip_id == contradicted].iloc[0]
    assert "123" in line.problem and "160" in line.problem
    assert "sheet is followed" in line.what_to_do
    counts = native_counts(reading)
    assert sum(want for (_, label), (_, want) in counts.items() if label != "subjects") == 860
    assert sum(n for (_, label), (n, _) in counts.items() if label != "subjects") == 858
    assert any(clip.startswith("CAS(ME)³ A/spNO.3/J_") for clip in found)


def test_casme3_part_c(tmp_path):
    expected = more.write_casme3_c(tmp_path)
    reading = read_root({"CAS(ME)³ C": tmp_path})
    assert clips_of(reading) == expected and len(expected) == 165
    assert reading.left_out.empty and set(reading.clips.apex_source) == {"middle"}
    assert said(reading.problems, "its layout was not confirmed")["CAS(ME)³ C"] == 1
    assert all(found == want for found, want in native_counts(reading).values())
    table = unit_table(reading.clips.assign(database="SAMM"), reading.details)
    assert table.AU4.sum() == table.AU7.sum() == 165  # one of the commas is Chinese


def test_fourdme(tmp_path):
    expected = more.write_fourdme(tmp_path)
    reading = read_root({"4DME": tmp_path})
    assert clips_of(reading) == expected and reading.left_out.empty
    assert set(said(reading.problems, "its labels")) == {"4DME/20/c144", "4DME/21/c145"}
    rules = Counter(rule for _, rule in with_labels(reading.clips, "native").attrs["left_out"])
    assert rules == {"4DME's 'negative+surprise' is not used": 40}
    table = unit_table(reading.clips, reading.details)
    assert (table.AU4.sum(), table.AU7.sum()) == (200, 0)  # (k) is dropped
    off = clips_of(read_root({"4DME": tmp_path}, corrections="none"))
    assert off["4DME/20/c144"][0] == expected["4DME/21/c145"][0] != expected["4DME/20/c144"][0]


def test_smic_is_told_from_its_other_cameras(tmp_path):
    layouts.write_smic(tmp_path, layouts.fabricated()["SMIC-HS"])
    expected = {camera: more.write_camera(tmp_path, camera) for camera in ("VIS", "NIR")}
    reading = read_root(tmp_path)
    found = clips_of(reading)
    for camera, clips in expected.items():
        assert {k: v for k, v in found.items() if k.startswith(f"SMIC-{camera}/")} == clips
        assert len(clips) == 71
    counts = {"SMIC-HS": 164, "SMIC-NIR": 71, "SMIC-VIS": 71}
    assert reading.clips.groupby("database").size().to_dict() == counts
    assert reading.left_out.empty, reading.summary()
    base = tmp_path / "SMIC/SMIC_all_cropped"
    (base / "HS").rename(base / "high speed")  # the other two are known by their folders' names
    again = read_root(tmp_path)
    assert again.clips.groupby("database").size().to_dict() == counts
    assert not said(again.problems, "a second folder of frames")


# -- long videos ------------------------------------------------------------------------------

def test_casme_sq(tmp_path):
    clips, events = more.write_casme_sq(tmp_path)
    reading = read_root({"CAS(ME)²": tmp_path})
    assert clips_of(reading) == clips and reading.left_out.empty, reading.summary()
    assert all(found == want for found, want in native_counts(reading).values())
    for clip in reading.clips.itertuples():  # a part of its recording, and no more
        assert [*clip.frames] == [*range(clip.onset, clip.offset + 1)]
    both = read_root({"CAS(ME)²": tmp_path}, macro=True)
    assert Counter(both.clips.kind) == {"micro": 57, "macro": 300}
    assert len(with_labels(both.clips, "native")) == 57  # a macro-expression is no class of its own
    videos = read_videos({"CAS(ME)²": tmp_path})
    assert events_of(videos) == events and videos.left_out.empty
    assert (len(videos.videos), videos.events.video_id.nunique()) == (98, 95)
    assert sum(said(videos.problems, "its offset is 0").values()) == 44
    counts = event_counts(videos)
    assert (counts.found == counts.expected).all() and len(counts) == 4
    assert set(videos.videos.rate) == {30}


def test_samm_long_videos(tmp_path):
    events = more.write_samm_long(tmp_path)
    videos = read_videos(tmp_path)
    assert events_of(videos) == events and len(events) == 502 and videos.left_out.empty
    assert sum(said(videos.problems, "its apex is -1").values()) == 6
    assert sum(said(videos.problems, "its onset 0 is before the first frame, 1").values()) == 10
    assert sum(said(videos.problems, "is no whole number").values()) == 143
    counts = event_counts(videos)
    assert (counts.found == counts.expected).all() and len(counts) == 4
    with pytest.raises(FileNotFoundError, match="no clip was found"): read_root(tmp_path)
    assert check_root(tmp_path).differs == []
    shutil.rmtree(tmp_path / "SAMMLV/SAMM_longvideos/037_1")
    report = check_root(tmp_path)
    assert "SAMM-LV videos in long videos" in report.differs and not report.ok


def test_smic_extended(tmp_path):
    expected = more.write_smic_long(tmp_path)
    reading, videos = read_root({"SMIC-HS-E": tmp_path}), read_videos(tmp_path)
    assert clips_of(reading) == expected and reading.left_out.empty, reading.summary()
    assert {k: (v[4], *v[1:2], v[3]) for k, v in events_of(videos).items()} == {
        k: (v[0], v[1], v[3]) for k, v in expected.items()}
    before = said(videos.problems, "lies before its first frame")
    assert {clip.split("/")[2] for clip in before} == {
        "s20_ne_06", "s20_ne_09", "s20_sur_02", "s18_ne_01", "s18_sur_03"}
    assert set(said(videos.problems, "do not hold its onset 658536")) == {"SMIC-HS-E/s01/s01_ne_03"}
    counts = event_counts(videos)
    assert dict(zip(counts["class"], counts.found)) == {"videos": 157, "subjects": 16}
    assert (counts.found == counts.expected).all()


def test_casme3_as_recordings(tmp_path):
    _, events = more.write_casme3_a(tmp_path)
    videos = read_videos(tmp_path)
    found = events_of(videos)
    assert set(found) == set(events)
    last = dict(zip(videos.videos.video_id, (max(f) for f in videos.videos.frames)))
    for row in videos.events.itertuples():
        assert row.offset <= last[row.video_id]
    assert len(said(videos.problems, "there is no CAS(ME)3_part_A_v2.xlsx")) == 1
    assert said(videos.problems, "is after the last frame")
    more.write_casme3_a(tmp_path / "both", every=True)
    whole = read_videos(tmp_path / "both")
    assert Counter(whole.events.kind)["macro"] == 1
    assert not said(whole.problems, "there is no CAS(ME)3_part_A_v2")


# -- all of them in one root ------------------------------------------------------------------

@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "The paper's three and all others, in one root."
    root = tmp_path_factory.mktemp("whole")
    made = layouts.from_members() if layouts.MEMBERS.exists() else layouts.fabricated()
    layouts.write_all(root, made)
    more.write_more(root)
    return root, check_root(root)


def test_the_442_and_their_hash_whatever_else_lies_in_the_root(whole, tmp_path):
    root, report = whole
    clips = report.reading.clips
    three = read_root({name: root for name in MEGC2019.databases}).clips
    own = clips[clips.database.isin(MEGC2019.databases)].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, three)
    assert len(with_labels(clips)) == 442
    assert membership_hash(clips) == membership_hash(three)
    if layouts.MEMBERS.exists():
        assert membership_hash(clips) == expected_counts()["composite"]["sha256"]["all"]
    alone = layouts.write_all(tmp_path, layouts.from_members() if layouts.MEMBERS.exists()
                              else layouts.fabricated())
    before = read_root(alone).clips
    assert list(before.clip_id) == list(three.clip_id)
    columns = ["emotion", "onset", "apex", "offset", "apex_source"]
    pd.testing.assert_frame_equal(before[columns], three[columns])


def test_all_are_recognised_in_one_root(whole):
    root, report = whole
    assert set(report.databases.index) == {
        "CASME", "CASME II", "CAS(ME)²", "CAS(ME)³ A", "CAS(ME)³ C", "4DME", "MMEW", "SAMM",
        "SMIC-HS", "SMIC-VIS", "SMIC-NIR", "SMIC-HS-E"}
    assert set(report.videos.videos.database) == {"CAS(ME)²", "CAS(ME)³ A", "SAMM-LV", "SMIC-HS-E"}
    text = str(report)
    assert re.search(r"^442 of 442|442 of 442 clips of the composite", text)
    for words in ("Own classes, found / expected", "300/300", "Events, found / expected", "147/147",
                  "corrected: 11 cells of CASME", "corrected: 32 cells of MMEW",
                  "not decided: ", "fingerprint"):
        assert words in text, words
    lost = report.reading.left_out
    assert set(lost.clip_id.str.split("/").str[0]) == {"CAS(ME)³ A"}, lost  # two durations below 0
    assert report.seconds < 60


def test_each_alone_and_in_several_roots(whole, tmp_path):
    root, report = whole
    roots = [root / name for name in ("CASME", "MMEW", "SAMMLV", "CASME_sq")]
    several = check_root(roots)
    assert set(several.databases.index) == {"CASME", "MMEW", "CAS(ME)²"}
    assert set(several.videos.videos.database) == {"SAMM-LV", "CAS(ME)²"}
    for name in several.databases.index:
        assert several.databases.fingerprint[name] == report.databases.fingerprint[name]
    assert "SMIC_all_cropped/HS/s01/micro/{emotion}/{clip}/reg_image1.bmp" in str(several)


def test_where_nothing_is_the_expected_trees_are_printed(tmp_path, capsys):
    (tmp_path / "holiday").mkdir()
    assert main(["check", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    for words in ("CAS(ME)^2code_final.xlsx beside rawpic/s01/{clip}/img1.jpg",
                  "SAMM_longvideos/{clip}/{clip}_1.jpg", "gray_micro/01/{clip}/1.jpg"):
        assert words in said


def test_the_spotting_sets(whole):
    _, report = whole
    chosen = spotting_set(report.videos, "megc2020")
    assert (len(chosen.videos), len(chosen.events)) == (98 + 147, 357 + 502)
    assert Counter(chosen.events.kind) == {"micro": 57 + 159, "macro": 300 + 343}
    assert len(spotting_set(report.videos, "megc2019").events) == 57 + 159
    assert len(spotting_set(report.videos, "smic-e").videos) == 157


def test_the_cross_database_protocol(whole):
    _, report = whole
    table = unit_table(report.reading.clips, report.reading.details)
    folds = list(leave_one_database_out(table))
    assert [name for name, *_ in folds] == list(CD6ME.databases)
    assert {name: len(judged) for name, _, judged in folds} == {
        "CASME": 189, "CASME II": 255, "SAMM": 159, "4DME": 200, "MMEW": 300, "CAS(ME)³ A": 858}
    assert not table.clip_id.str.startswith(("SMIC", "CAS(ME)²")).any()


# -- one's own --------------------------------------------------------------------------------

MINE = '''name = "mine"
classes = ["negative", "positive"]
composite = true
[labels."CAS(ME)²"]
negative = "negative"
positive = "positive"
[labels.MMEW]
disgust = "negative"
happiness = "positive"
'''


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.toml").write_text(MINE)
    yield tmp_path / "mine.toml"
    PROTOCOLS.pop("mine", None)


def test_a_protocol_of_ones_own(whole, mine):
    protocol = load_protocol(mine)
    labelled = with_labels(whole[1].reading.clips, protocol.name)
    assert labelled.groupby(["database", "label"]).size().to_dict() == {
        ("CAS(ME)²", "negative"): 21, ("CAS(ME)²", "positive"): 8,
        ("MMEW", "negative"): 72, ("MMEW", "positive"): 36}


def test_a_database_and_a_protocol_from_the_command_line(tmp_path, mine, capsys, monkeypatch):
    from mfdan.data import registry
    monkeypatch.setenv(registry.NAMED, "")
    example = str(layouts.Path(__file__).parent / "dfme.py")
    registry.databases()
    try:
        record, = registry.load_database(example)
        sheet = record.sheet
        row = dict(subject="p001", onset=3, apex=5, offset=8, emotion="fear")
        rows = [more.header(sheet)] + [more.cells(sheet, row | said) for said in (
            dict(name="a_1", kind="micro"), dict(name="a_2", kind="macro"))]
        more.book(tmp_path / "own" / sheet.official, {"Sheet1": rows})
        more.frames(tmp_path / "own", "part_A/p001/a_1", "{:05d}.jpg", range(3, 9))
        more.write_mmew(tmp_path)
        status = main(["check", str(tmp_path), "--database", example, "--protocol", str(mine)])
        said = capsys.readouterr().out
        assert status == 1 and "beside it" in said and "DFME: 1 clips" in said
        assert "Your protocol: clips" in said and "its layout is an example" in said
    finally:
        for known in (registry.RECORDS, registry.FILES):
            for name in [n for n in known if "dfme" in str(n).lower()]: del known[name]


def test_no_fact_is_shipped_but_counts_and_cells():
    "Corrections name their source; the package holds no sheet."
    from mfdan.data.registry import databases
    for record in databases().values():
        for correction in record.corrections: assert correction.source and correction.why
    import mfdan
    package = layouts.Path(mfdan.__file__).parent
    assert not [p for p in package.rglob("*") if p.suffix in (".xlsx", ".xls")]
