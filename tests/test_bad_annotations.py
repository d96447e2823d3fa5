"""Spoilt annotations of the databases beside the paper's are named, and the rest is read."""
import os
import shutil
from pathlib import Path

import more_layouts as more
import pandas as pd
import pytest

from mfdan.data.problems import LEFT_OUT
from mfdan.data.registry import record_of
from mfdan.data.root import clips_under
from mfdan.data.videos import read_videos

SQ, A, C = "CAS(ME)²", "CAS(ME)³ A", "CAS(ME)³ C"
PERSON = "张伟 Wei Zhang"  # invented; it must never stand in a report
FLAGS = dict(said="Negative", negative=1)


def sheet_of(name): return record_of(name).sheet


def event_sq(name, onset, offset, **more_):
    return dict(subject=1, name=name, onset=onset, apex=onset + 2, offset=offset, units="4",
                emotion="negative", type="micro-expression", report="x") | more_


SMALL = {  # database -> its folder, title of the worksheet, rows, and its frames
    "CASME": ("one", "Sheet1", [
        dict(subject=s, name=f"EP0{s}_01", onset=5, apex=7, offset=9, emotion="disgust", units="4")
        for s in (1, 2)],
        [(f"CASME_raw_selected/sub0{s}/EP0{s}_01", "x-{}.jpg", range(5, 10)) for s in (1, 2)]),
    SQ: ("sq", "CASFEcode_final", [event_sq("anger1_1", 5, 9), event_sq("happy1_1", 5, 9)],
         [(f"rawpic/s15/{video}", "img{:03d}.jpg", range(1, 21))
          for video in ("15_0401x", "15_0502x")]),
    "MMEW": ("mmew", "Sheet1", [
        dict(subject=f"S0{s}", name=f"S0{s}-01-001", onset=1, apex=3, offset=5,
             emotion="happiness", units="12") for s in (3, 4)],
        [(f"S0{s}/happiness/S0{s}-01-001", "{}.jpg", range(1, 6)) for s in (3, 4)]),
    A: ("three", "label", [
        dict(subject=f"spNO.{s}", name="a", onset=5, apex=7, offset=9, emotion="fear", units="4")
        for s in (1, 2)],
        [(f"spNO.{s}/a/color", "{}.jpg", range(1, 21)) for s in (1, 2)]),
    C: ("crime", "mockCrimeME", [
        dict(subject=s, name=1, onset=5, offset=9, emotion="negative", units="4") for s in (1, 2)],
        [(f"ME_C/0{s}/1/color", "{}.jpg", range(5, 10)) for s in (1, 2)]),
    "4DME": ("four", "Sheet1", [
        dict(subject=s, name=f"c{s}", onset=5, apex=7, offset=9, units="4") | FLAGS
        for s in (1, 2)],
        [(f"gray_micro/{s}/c{s}", "{}.jpg", range(5, 10)) for s in (1, 2)]),
    "SMIC-HS-E": ("smic", "HS", [
        dict(subject=s, name=f"s{s}_ne_01", onset=105, offset=109, first=100, last=120,
             emotion="negative") for s in (1, 2)],
        [(f"HS_long/SMIC_HS_E/s0{s}/s{s}_ne_01", "image{:06d}.jpg", range(100, 121))
         for s in (1, 2)]),
    "SAMM-LV": ("long", "FACS_Movement_Only", [
        dict(subject=f"00{s}", name=f"00{s}_1_1", onset=5, apex=7, offset=9, type="Macro",
             units="4") for s in (6, 7)],
        [(f"SAMM_longvideos/00{s}_1", f"00{s}_1_{{:04d}}.jpg", range(1, 21)) for s in (6, 7)]),
}
FIRST = {"CASME": "CASME/sub01/EP01_01", SQ: f"{SQ}/s15/anger1_1", "MMEW": "MMEW/S03/S03-01-001",
         A: f"{A}/spNO.1/a_5", C: f"{C}/01/1", "4DME": "4DME/01/c1",
         "SMIC-HS-E": "SMIC-HS-E/s01/s01_ne_01", "SAMM-LV": "SAMM-LV/006/006_1_1"}
SECOND = {"CASME": "CASME/sub02/EP02_01", SQ: f"{SQ}/s15/happy1_1", "MMEW": "MMEW/S04/S04-01-001",
          A: f"{A}/spNO.2/a_5", C: f"{C}/02/1", "4DME": "4DME/02/c2",
          "SMIC-HS-E": "SMIC-HS-E/s02/s02_ne_01", "SAMM-LV": "SAMM-LV/007/007_1_1"}
BOTH = {name: {FIRST[name], SECOND[name]} for name in FIRST}
ALL = list(SMALL)


def rows_of(name, said):
    "The lines of a sheet, as its owners lay them out."
    sheet = sheet_of(name)
    lines = [[f"line {i + 1}"] for i in range(sheet.above)]
    if sheet.header: lines.append(more.header(sheet))
    return lines + [more.cells(sheet, row) for row in said]


def write_sheet(root, name, lines, aside=True):
    folder, title, *_ = SMALL[name]
    rules = {"naming rule1": [[15, "s15", 1]]} if sheet_of(name).aside and aside else {}
    more.book(root / folder / sheet_of(name).official, {title: lines, **rules})


def change(name, root, cells):
    "Change cells of the first row of a sheet."
    said = [dict(row) for row in SMALL[name][2]]
    said[0] |= cells
    write_sheet(root, name, rows_of(name, said))


def change_lines(name, how):
    "Change the lines of a sheet as they are."
    def plant(root):
        lines = rows_of(name, SMALL[name][2])
        how(lines)
        write_sheet(root, name, lines)
    return plant


def drop_header(lines): lines.pop(-3)


def shift(lines):
    for i in range(len(lines) - 2, len(lines)): lines[i].insert(0, None)


def as_csv(name, comma):
    def plant(root):
        file = root / SMALL[name][0] / sheet_of(name).official
        file.unlink()
        lines = rows_of(name, SMALL[name][2])
        text = "\n".join(comma.join("" if cell is None else str(cell) for cell in line)
                         for line in lines)
        file.with_suffix(".csv").write_text(text, encoding="utf-8")
    return plant


def escape(name, folder):
    "A subject's folder becomes a link that leads out of the root."
    def plant(root):
        place, away = root / SMALL[name][0] / folder, root.parent / "elsewhere"
        away.mkdir(exist_ok=True)
        shutil.move(place, away / place.name)
        place.symlink_to(away / place.name)
    return plant


def with_cells(database, **cells): return lambda root: change(database, root, cells)


def empty(name, frame):
    def plant(root):
        file = root / SMALL[name][0] / frame
        file.unlink()
        file.touch()
    return plant


def second_sheet(root):
    file = root / "long" / sheet_of("SAMM-LV").official
    shutil.copy(file, file.with_name("SAMM_LongVideos_V1_Release.xlsx"))


def no_rules(root): write_sheet(root, SQ, rows_of(SQ, SMALL[SQ][2]), aside=False)


def old_excel(root):
    (root / "three" / sheet_of(A).official).rename(
        root / "three/cas(me)3_part_A_ME_label_JpgIndex_v1.xls")
    (root / "three/cas(me)3_part_A_ME_label_JpgIndex_v1.xls").write_bytes(b"\xd0\xcf\x11\xe0")


def other_class(root):
    (root / "mmew/S03/happiness").rename(root / "mmew/S03/anger")


def twice(root):
    shutil.copytree(root / "crime/ME_C/01", root / "crime/ME_C/1")


BAD = {}  # case -> (plant, clip named, file named, words, clips lost)
for name in ALL:
    file = Path(sheet_of(name).official).stem
    if sheet_of(name).header: BAD[f"{name}: no header"] = (
        change_lines(name, drop_header), name, file, "no header row was found", BOTH[name])
    BAD[f"{name}: shifted columns"] = (
        change_lines(name, shift), f"{name}/None/", file, "None is no subject", BOTH[name])
    BAD[f"{name}: a person for a subject"] = (
        with_cells(name, subject=PERSON), name, file, "a text that is not repeated here is no subj",
        {FIRST[name]})
    BAD[f"{name}: ends before it begins"] = (
        with_cells(name, offset=1), FIRST[name], file, "is not before its offset 1", {FIRST[name]})
    BAD[f"{name}: an onset below zero"] = (
        with_cells(name, onset=-5), name, file, "-5 is no frame number", {FIRST[name]})
for name in ("CASME", "MMEW", "4DME", C): BAD[f"{name}: an onset that is no whole number"] = (
    with_cells(name, onset=5.5), FIRST[name], Path(sheet_of(name).official).stem,
    "5.5 is no frame number", {FIRST[name]})
for name in ("CASME", "MMEW", "4DME", A, C): BAD[f"{name}: an offset of 0"] = (
    with_cells(name, offset=0), FIRST[name], Path(sheet_of(name).official).stem,
    "is not before its offset 0", {FIRST[name]})
for name in ("CASME", "MMEW", "4DME"): BAD[f"{name}: Chinese commas in a csv"] = (
    as_csv(name, "，"), name, Path(sheet_of(name).official).stem,
    "no header row was found, but Chinese commas", BOTH[name])
for name, cells in (("CASME", {"emotion": PERSON}), ("MMEW", {"emotion": PERSON}),
                    (A, {"emotion": PERSON})):
    BAD[f"{name}: a person for an emotion"] = (
        with_cells(name, **cells), FIRST[name], Path(sheet_of(name).official).stem,
        "its emotion a text that is not repeated here is none",
        set() if name == A else {FIRST[name]})  # as an event of a recording it stays
for name in ("CASME", "MMEW", "4DME", "SAMM-LV"): BAD[f"{name}: a person for a clip"] = (
    with_cells(name, name=PERSON), name, Path(sheet_of(name).official).stem,
    "a text that is not repeated here is no clip name", {FIRST[name]})
for name in ("CASME", "MMEW", "4DME"): BAD[f"{name}: a person for a frame"] = (
    with_cells(name, apex=PERSON), FIRST[name], Path(sheet_of(name).official).stem,
    "a text that is not repeated here is no frame number", {FIRST[name]})
for name, folder, lost in (
        ("CASME", "CASME_raw_selected/sub01", {FIRST["CASME"]}), (SQ, "rawpic/s15", BOTH[SQ]),
        ("MMEW", "S03", {FIRST["MMEW"]}), (A, "spNO.1", {FIRST[A]}), (C, "ME_C/01", {FIRST[C]}),
        ("4DME", "gray_micro/1", {FIRST["4DME"]}),
        ("SMIC-HS-E", "HS_long/SMIC_HS_E/s01", {FIRST["SMIC-HS-E"]})):
    BAD[f"{name}: a subject's folder leads out of the root"] = (
        escape(name, folder), f"{name}/{Path(folder).name}", Path(folder).name,
        "it is a link that leads out of its database", lost)
BAD |= {
    f"{SQ}: a header where none belongs": (
        change_lines(SQ, lambda lines: lines.insert(0, "Subject Clip Onset Apex Offset AU Emotion "
                                                       "Type Report".split())),
        f"{SQ}/", "code_final", "is no subject", set()),
    f"{SQ}: an offset of 0": (
        with_cells(SQ, offset=0), FIRST[SQ], "code_final", "its offset is 0, which means", set()),
    f"{SQ}: no worksheet that names the folders": (
        no_rules, SQ, "code_final", "its worksheet 'naming rule1' is missing", BOTH[SQ]),
    f"{SQ}: a csv, which has no second worksheet": (
        as_csv(SQ, ","), SQ, "code_final.csv", "its worksheet 'naming rule1' is missing", BOTH[SQ]),
    f"{SQ}: a subject that the rule does not know": (
        with_cells(SQ, subject=9), f"{SQ}/", "code_final", "subject 9 has no folder", {FIRST[SQ]}),
    f"{SQ}: a recording that nobody knows": (
        with_cells(SQ, name="sad1_1"), f"{SQ}/s15/sad1_1", "sad1_1", "folder of frames is missing",
        {FIRST[SQ]}),
    f"{SQ}: a kind that nobody knows": (
        with_cells(SQ, type="subtle"), FIRST[SQ], "code_final", "is no kind of expression",
        {FIRST[SQ]}),
    f"{SQ}: an event outside of its video": (
        with_cells(SQ, onset=90, apex=92, offset=95), FIRST[SQ], "", "its onset, frame 90, is miss",
        {FIRST[SQ]}),
    f"{SQ}: an empty frame at the onset": (
        empty(SQ, "rawpic/s15/15_0401x/img005.jpg"), FIRST[SQ], "img005.jpg", "is empty", set()),
    "SAMM-LV: an onset that is no whole number": (
        with_cells("SAMM-LV", onset=5.5), FIRST["SAMM-LV"], "V3", "5.5 is no whole number", set()),
    "SAMM-LV: an apex of -1": (
        with_cells("SAMM-LV", apex=-1), FIRST["SAMM-LV"], "V3", "its apex is -1", set()),
    "SAMM-LV: an onset of 0": (
        with_cells("SAMM-LV", onset=0), FIRST["SAMM-LV"], "V3", "before the first frame, 1", set()),
    "SAMM-LV: an event outside of its video": (
        with_cells("SAMM-LV", onset=90, apex=92, offset=95), FIRST["SAMM-LV"], "V3",
        "it is not in its video: 90 to 95 of 1 to 20", {FIRST["SAMM-LV"]}),
    "SAMM-LV: an event that ends after its video": (
        with_cells("SAMM-LV", offset=95), FIRST["SAMM-LV"], "V3", "its offset 95 is after the last",
        set()),
    "SAMM-LV: a kind that nobody knows": (
        with_cells("SAMM-LV", type="Other"), FIRST["SAMM-LV"], "V3", "is no kind of expression",
        {FIRST["SAMM-LV"]}),
    "SAMM-LV: an event of another subject": (
        with_cells("SAMM-LV", name="007_1_9"), "SAMM-LV/006/007_1_9", "V3",
        "stands under subject '006'", {FIRST["SAMM-LV"]}),
    "SAMM-LV: two editions": (
        second_sheet, "SAMM-LV", "V1_Release", "a second annotation file", set()),
    "SAMM-LV: a blank offset": (
        with_cells("SAMM-LV", offset=None), FIRST["SAMM-LV"], "V3", "its offset is blank",
        {FIRST["SAMM-LV"]}),
    f"{A}: a sheet of Excel 97": (
        old_excel, A, "v1.xls", "it cannot be read", BOTH[A]),
    f"{A}: an apex on its onset": (
        with_cells(A, apex=5), FIRST[A], "label", "its apex on its onset", set()),
    f"{A}: a letter that is missing": (
        with_cells(A, name=None), f"{A}/spNO.1", "label", "is no clip name", {FIRST[A]}),
    f"{A}: a micro-expression of a minute": (
        with_cells(A, offset=1805), FIRST[A], "label", "it lasts 1801 frames, 60.0 s", set()),
    f"{C}: a clip in two folders": (twice, f"{C}/1/1", "ME_C/1/1", "there is also", set()),
    f"{C}: a clip that is nowhere": (
        with_cells(C, name=7), f"{C}/01/7", "7", "folder of frames is missing", {FIRST[C]}),
    "MMEW: a folder of another class": (
        other_class, FIRST["MMEW"], "anger", "its folder says 'anger', the annotation", set()),
    "4DME: a clip without a label": (
        with_cells("4DME", negative=0), FIRST["4DME"], "4DME_Lab", "its emotion '' is none",
        {FIRST["4DME"]}),
    "4DME: labels that contradict their name": (
        with_cells("4DME", said="Positive"), FIRST["4DME"], "4DME_Lab",
        "its columns say negative, its column Emotion another word", set()),
    "CASME: a second apex": (
        with_cells("CASME", apex2=8), FIRST["CASME"], "casme", "a second apex is annotated", set()),
    "SMIC-HS-E: an onset before its clip": (
        with_cells("SMIC-HS-E", onset3=33, offset3=44), FIRST["SMIC-HS-E"], "annotation",
        "its onset number 3, 33, lies before its first frame, 100", set()),
    "SMIC-HS-E: a clip that does not hold its onset": (
        with_cells("SMIC-HS-E", first=600, last=700), FIRST["SMIC-HS-E"], "annotation",
        "do not hold its onset 105", set()),
    "SMIC-HS-E: a blank onset": (
        with_cells("SMIC-HS-E", onset=None), FIRST["SMIC-HS-E"], "annotation",
        "its onset is blank", {FIRST["SMIC-HS-E"]}),
}
STILL = {f"{SQ}: an event outside of its video", f"{SQ}: an empty frame at the onset"}


@pytest.fixture(scope="session")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound")
    for name, (folder, _, said, frames) in SMALL.items():
        write_sheet(root, name, rows_of(name, said))
        for place, pattern, numbers in frames:
            more.frames(root, f"{folder}/{place}", pattern, numbers)
    return root


def read(root):
    "The ids of clips and events that are read, and all problems."
    reading, videos = clips_under(root), read_videos(root)
    events = {"/".join([*r.video_id.split("/")[:2], r[2]])
              for r in videos.events.itertuples()}
    return ({*reading.clips.clip_id} | events,
            pd.concat([reading.problems, videos.problems]), reading, videos)


def named(clip: str, said: str) -> bool:
    "Is it the clip? A row that cannot be understood spells its subject as the sheet does."
    asked, parts = clip.split("/"), said.split("/")
    return clip in said or (parts[0] == asked[0] and parts[-1] == asked[-1])


@pytest.fixture
def copy(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "copy", symlinks=True))


def test_the_sound_copy_gives_everything(sound):
    found, problems, *_ = read(sound)
    assert found == set.union(*BOTH.values())
    assert problems[problems.severity == LEFT_OUT].empty, problems


def test_there_are_enough_cases(): assert len(BAD) >= 60


@pytest.mark.parametrize("case", BAD)
def test_bad_annotations_are_named_and_the_rest_is_read(copy, case):
    plant, clip, file, words, lost = BAD[case]
    plant(copy)
    found, problems, reading, videos = read(copy)
    lines = ["\t".join(row) for row in problems.itertuples(index=False)]
    assert any(named(clip, p.clip_id) and file in p.file and words in p.problem
               for p in problems.itertuples()), "\n".join(lines)
    if case not in STILL:
        assert found >= set.union(*BOTH.values()) - lost and not found & lost, "\n".join(lines)
    else: assert found >= set.union(*BOTH.values()) - {clip}
    left = problems[problems.severity == LEFT_OUT]
    assert (left.what_to_do.str.len() > 5).all()
    report = "\n".join(lines) + reading.summary(999)
    for part in PERSON.split(): assert part not in report, report


def test_a_name_in_a_sheet_is_in_no_report(copy):
    "All sheets at once, a person in every text cell of the first row."
    from mfdan.data.check import check_root
    for name in ALL:
        said = [dict(row) for row in SMALL[name][2]]
        said[0] |= {key: PERSON for key, cell in said[0].items() if isinstance(cell, str)}
        write_sheet(copy, name, rows_of(name, said))
    text = str(check_root(copy))
    for part in PERSON.split(): assert part not in text
    assert "a text that is not repeated here" in text


def test_a_link_within_its_database_is_followed(copy):
    base = copy / "one/CASME_raw_selected"
    os.rename(base / "sub02", base / "kept")
    (base / "sub02").symlink_to("kept")
    assert SECOND["CASME"] in read(copy)[0]
