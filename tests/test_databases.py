"""Layouts that occur give the expected table; spoilt copies give a message, sound clips load."""
import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import layouts
import numpy as np
import pandas as pd
import pytest
from layouts import Made, few, unlink
from PIL import Image

from mfdan.core.written import keep_written
from mfdan.data.check import check_root
from mfdan.data.images import ImageError, read_image
from mfdan.data.problems import LEFT_OUT, NOTED
from mfdan.data.protocols import check_counts, expected_counts, membership_hash, with_labels
from mfdan.data.root import read_root

EXPECTED = {  # the clips of `few`, as every sound copy must give them
    "CASME II/sub01/EP02_01f": ("happiness", 46, 48, 50, "annotation"),
    "CASME II/sub01/EP19_05f": ("disgust", 46, 48, 50, "annotation"),
    "CASME II/sub02/EP01_11f": ("repression", 46, 48, 50, "annotation"),
    "SAMM/006/006_1_2": ("anger", 5562, 5564, 5566, "annotation"),
    "SAMM/006/006_1_3": ("happiness", 46, 48, 50, "annotation"),
    "SAMM/007/007_5_3": ("surprise", 46, 48, 50, "annotation"),
    "SMIC-HS/s01/s01_ne_01": ("negative", 559740, 559742, 559744, "middle"),
    "SMIC-HS/s01/s01_po_01": ("positive", 701843, 701845, 701847, "middle"),
    "SMIC-HS/s02/s02_sur_01": ("surprise", 90868, 90870, 90872, "middle"),
}


def seen(reading) -> dict:
    return {r.clip_id: (r.emotion, int(r.onset), int(r.apex), int(r.offset), r.apex_source)
            for r in reading.clips.itertuples()}


def said(reading, severity=None) -> str:
    rows = reading.problems
    rows = rows if severity is None else rows[rows.severity == severity]
    return "\n".join(" | ".join(row) for row in rows.itertuples(index=False))


@pytest.fixture
def root(tmp_path) -> Path: return layouts.write_all(tmp_path / "copy", few())


# -- layouts that occur -----------------------------------------------------------------------

RAW = "these are the raw frames, not the cropped ones"  # of SMIC-HS, said wherever it is so
VARIANTS = {
    "the usual ones": lambda r, m: layouts.write_all(r, m),
    "CASME II cropped": lambda r, m: layouts.write_casme2(r, m["CASME II"], frames="cropped"),
    "CASME II without the blank columns": lambda r, m: layouts.write_casme2(
        r, m["CASME II"], blanks=False),
    "CASME II, subject an int": lambda r, m: layouts.write_casme2(r, m["CASME II"], subject="int"),
    "CASME II, subject a float": lambda r, m: layouts.write_casme2(
        r, m["CASME II"], subject="float"),
    "CASME II, doubled": lambda r, m: layouts.write_casme2(r, m["CASME II"], doubled=True),
    "CASME II, another copy's file name": lambda r, m: layouts.write_casme2(
        r, m["CASME II"], sheet="CASME2-coding-updated.xlsx"),
    "SAMM, subject an int": lambda r, m: layouts.write_samm(r, m["SAMM"], subject="int"),
    "SAMM without the text above": lambda r, m: layouts.write_samm(r, m["SAMM"], text_rows=0),
    "SAMM, another sheet first": lambda r, m: layouts.write_samm(r, m["SAMM"], first="READ ME"),
    "SAMM in three channels": lambda r, m: layouts.write_samm(r, m["SAMM"], mode="RGB"),
    "SMIC-HS raw": lambda r, m: layouts.write_smic(r, m["SMIC-HS"], frames="raw"),
    "SMIC-HS padded": lambda r, m: layouts.write_smic(r, m["SMIC-HS"], padded=True),
    "SMIC-HS beside VIS and NIR": lambda r, m: layouts.write_smic(
        r, m["SMIC-HS"], others=("VIS", "NIR")),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_layout_that_occurs_gives_the_expected_table(tmp_path, variant):
    VARIANTS[variant](tmp_path, few())
    reading = read_root(tmp_path)
    there = set(reading.clips.database)
    assert seen(reading) == {k: v for k, v in EXPECTED.items() if k.split("/")[0] in there}
    assert there and reading.left_out.empty and (reading.clips.corpus == "licensed").all()
    assert set(reading.problems.problem) <= {"not found", RAW} and \
        (RAW in set(reading.problems.problem)) == (variant == "SMIC-HS raw")
    assert all(path.is_file() for frames in reading.clips.frames for path in frames.values())
    assert [list(f) == sorted(f) for f in reading.clips.frames] == [True] * len(reading.clips)


def test_a_root_of_its_own_for_each_database(tmp_path):
    made = few()
    roots = {"CASME II": layouts.write_casme2(tmp_path / "a", made["CASME II"]),
             "SAMM": layouts.write_samm(tmp_path / "b", made["SAMM"]) / "SAMM",  # the very frames
             "SMIC-HS": layouts.write_smic(tmp_path / "c", made["SMIC-HS"]) / "SMIC_all_cropped/HS"}
    assert seen(read_root(roots)) == EXPECTED


def test_raw_faces_for_casme2_and_cropped_ones_for_smic_where_both_exist(root):
    made = few()
    layouts.write_smic(root, made["SMIC-HS"], frames="raw")
    shutil.rmtree(root / ".seeds")
    cropped = root / "CASME2/Cropped"
    shutil.copytree(root / "CASME2/CASME2_RAW_selected", cropped)
    reading = read_root(root)
    assert seen(reading) == EXPECTED and reading.problems.empty
    files = {d: str(next(iter(f.values())))
             for d, f in zip(reading.clips.database, reading.clips.frames)}
    assert "RAW_selected" in files["CASME II"] and "SMIC_all_cropped" in files["SMIC-HS"]


def test_what_operating_systems_leave_behind_is_passed_over(root):
    clip = root / "CASME2/CASME2_RAW_selected/sub01/EP02_01f"
    for name in ("Thumbs.db", ".DS_Store", "._img46.jpg", "Desktop - Shortcut.lnk"):
        (clip / name).touch()
    shutil.copytree(root / "CASME2/CASME2_RAW_selected", root / "__MACOSX/CASME2_RAW_selected")
    shutil.copytree(root / "SMIC", root / "__MACOSX/SMIC")
    (root / "CASME2/~$CASME2-coding-20140508.xlsx").touch()
    reading = read_root(root)
    assert seen(reading) == EXPECTED and reading.problems.empty


def test_published_apexes_are_taken_and_nothing_else_of_that_file(root, tmp_path):
    made = few()["SMIC-HS"]
    index = layouts.write_index(tmp_path / "data_apex.csv", [replace(made[0], apex=559743),
                                                             replace(made[1], apex=701999)])
    reading = read_root(root, apex_index=index)
    found = seen(reading)
    assert found["SMIC-HS/s01/s01_ne_01"] == ("negative", 559740, 559743, 559744, "published index")
    assert found["SMIC-HS/s01/s01_po_01"][2:] == (701845, 701847, "middle")  # outside its clip
    assert found["SMIC-HS/s02/s02_sur_01"] == EXPECTED["SMIC-HS/s02/s02_sur_01"]  # not in the file
    assert "s01_po_01" in said(reading) and "701999" in said(reading)
    assert {k: v for k, v in found.items() if "SMIC" not in k} == \
           {k: v for k, v in EXPECTED.items() if "SMIC" not in k}


def test_an_embedded_corpus_enters_by_the_same_door_and_says_what_it_is(root, monkeypatch):
    (root / "mfdan-corpus.json").write_text(json.dumps({"corpus": "quick", "seed": 0}))
    for clip in ("CASME II/sub01/EP02_01f", "SAMM/006/006_1_2"):
        (root / "truth" / clip).mkdir(parents=True)  # is not a second copy of anything
    monkeypatch.setenv("MFDAN_CACHE", str(root.parent / "cache"))
    keep_written(root)
    reading = read_root(root)
    assert seen(reading) == EXPECTED and reading.problems.empty
    assert set(reading.clips.corpus) == {"quick"}
    assert set(read_root({"SAMM": root / "SAMM"}).clips.corpus) == {"quick"}


def test_embedded_and_licensed_clips_never_share_a_table(root, tmp_path, monkeypatch):
    (root / "mfdan-corpus.json").write_text(json.dumps({"corpus": "quick"}))
    monkeypatch.setenv("MFDAN_CACHE", str(tmp_path / "cache"))
    keep_written(root)
    other = layouts.write_samm(tmp_path / "own", few()["SAMM"])
    with pytest.raises(ValueError, match=r"several corpora: \['licensed', 'quick'\]"):
        read_root({"CASME II": root, "SAMM": other})


# -- the composite ----------------------------------------------------------------------------

def test_the_published_statistics_give_table_ii(tmp_path):
    reading = read_root(layouts.write_all(tmp_path))
    counts = check_counts(reading.clips)
    classes = counts[counts["class"] != "subjects"]
    assert len(reading.clips) == 255 + 159 + 164 and reading.left_out.empty
    assert (classes.found == classes.expected).all()
    assert len(with_labels(reading.clips)) == 442
    own = check_counts(reading.clips, "native")
    assert (own.found == own.expected).all()
    assert set(reading.problems.clip_id) == {"CASME II/sub04/EP12_01f", "CASME II/sub05/EP09_05f"}


@pytest.mark.skipif(not layouts.MEMBERS.exists(), reason="the list of members is not at hand")
def test_the_rules_give_exactly_the_listed_members(tmp_path):
    listed = pd.read_csv(layouts.MEMBERS, dtype=str)
    labelled = with_labels(read_root(layouts.write_all(tmp_path, layouts.from_members())).clips)
    assert dict(zip(labelled.clip_id, labelled.label)) == dict(zip(
        listed["database"] + "/" + listed["subject"] + "/" + listed["clip"], listed["label"]))
    assert membership_hash(labelled) == expected_counts()["composite"]["sha256"]["all"]
    assert (labelled.subject.nunique(), len(labelled)) == (68, 442)
    report = check_root(tmp_path)
    assert report.ok and str(report).startswith("complete: 442 of 442 clips of the composite")
    shutil.rmtree(tmp_path / "CASME2/CASME2_RAW_selected/sub01/EP99_00")  # of no class
    assert "442 of 442 clips of the composite; 1 left out" in check_root(tmp_path).verdict()
    assert not check_root(tmp_path).ok




# -- bad input --------------------------------------------------------------------------------
# Each case spoils one thing: what the message must hold, the clip or database it names, and the
# clips that are lost (the others must load as if nothing had happened).

CASME2, SAMM, SMIC = "CASME2/CASME2_RAW_selected", "SAMM/SAMM", "SMIC/SMIC_all_cropped/HS"
SHEETS = {"CASME II": ("CASME2/CASME2-coding-20140508.xlsx", layouts.casme2_rows, "Sheet1"),
          "SAMM": ("SAMM/SAMM_Micro_FACS_Codes_v2.xlsx", layouts.samm_rows, "MICRO_ONLY")}


def rewrite(root, database, clips=None, change=None, **how):
    "Write the annotation anew, with other clips or with its cells changed."
    path, rows_of, sheet = SHEETS[database]
    rows = [list(row) for row in rows_of(clips or few()[database], **how)]
    if change: change(rows)
    layouts.workbook(root / path, rows, sheet)


def with_clip(root, database, i, **changes):
    clips = few()[database]
    clips[i] = replace(clips[i], **changes)
    rewrite(root, database, clips)


def set_cell(row, column, value):
    def change(rows): rows[row][column] = value
    return change


def add_row(root, database, *more): rewrite(root, database, [*few()[database], *more])


def spoil(path, data=b""):
    unlink(path).write_bytes(data)


def cut(path, keep=0.5):
    data = unlink(path).read_bytes()
    path.write_bytes(data[:int(len(data) * keep)])


def paint(path, size):
    path.unlink()
    Image.new("RGB", size).save(path)


def fake_bmp(path, width, height):
    "A header that claims a size, and no pixels."
    data = bytearray(unlink(path).read_bytes()[:54])
    data[18:26] = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    path.write_bytes(data)


def bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("xl/workbook.xml", bytes(25_000_000))


A, B = "CASME II/sub01/EP02_01f", "SAMM/006/006_1_2"
C = "SMIC-HS/s01/s01_ne_01"
ALL = {d: [k for k in EXPECTED if k.startswith(d)] for d in ("CASME II", "SAMM", "SMIC-HS")}
SMIC_CLIP = f"{SMIC}/s1/micro/negative/s1_ne_01"

BAD = {  # name: (what is spoilt, clip named, file named, words of the message, clips lost)
    # whole databases
    "CASME II: no annotation": (lambda r: (r / SHEETS["CASME II"][0]).unlink(),
        "CASME II", CASME2, "no CASME2-coding-20140508.xlsx", ALL["CASME II"]),
    "SAMM: no annotation": (lambda r: (r / SHEETS["SAMM"][0]).unlink(),
        "SAMM", SAMM, "no SAMM_Micro_FACS_Codes_v2.xlsx", ALL["SAMM"]),
    "CASME II: no frames at all": (lambda r: shutil.rmtree(r / CASME2),
        "CASME II", "CASME2-coding", "no folder of frames", ALL["CASME II"]),
    "SAMM: no frames at all": (lambda r: shutil.rmtree(r / SAMM),
        "SAMM", "SAMM_Micro", "no folder of frames", ALL["SAMM"]),
    "SMIC-HS: only the VIS camera": (lambda r: (r / SMIC).rename(r / "SMIC/SMIC_all_cropped/VIS"),
        "SMIC-HS", "", "not found", ALL["SMIC-HS"]),
    "a renamed column": (lambda r: rewrite(r, "CASME II", change=set_cell(0, 4, "Apex")),
        "CASME II", "CASME2-coding", "0 columns 'apexframe'", ALL["CASME II"]),
    "a column that is there twice": (
        lambda r: rewrite(r, "SAMM", change=set_cell(13, 2, "Filename")),
        "SAMM", "SAMM_Micro", "2 columns 'filename'", ALL["SAMM"]),
    "no header": (lambda r: rewrite(r, "SAMM", change=lambda rows: rows.pop(13)),
        "SAMM", "SAMM_Micro", "no header row", ALL["SAMM"]),
    "an empty sheet": (lambda r: rewrite(r, "CASME II", change=lambda rows: rows.clear()),
        "CASME II", "CASME2-coding", "no header row", ALL["CASME II"]),
    "an annotation that is no workbook": (
        lambda r: (r / SHEETS["SAMM"][0]).write_bytes(b"PK nonsense"),
        "SAMM", "SAMM_Micro", "cannot be read", ALL["SAMM"]),
    "an empty annotation file": (lambda r: (r / SHEETS["CASME II"][0]).write_bytes(b""),
        "CASME II", "CASME2-coding", "cannot be read", ALL["CASME II"]),
    "an annotation of absurd size": (lambda r: os.truncate(r / SHEETS["CASME II"][0], 30_000_000),
        "CASME II", "CASME2-coding", "30000000 bytes", ALL["CASME II"]),
    "an annotation that unpacks to an absurd size": (lambda r: bomb(r / SHEETS["SAMM"][0]),
        "SAMM", "SAMM_Micro", "would unpack to 25000000 bytes", ALL["SAMM"]),
    "a broken marker": (lambda r: (r / "SAMM/mfdan-corpus.json").write_text("{"),
        "SAMM", "mfdan-corpus.json", "does not name its corpus", ALL["SAMM"]),
    "a marker that claims to be licensed": (
        lambda r: (r / "SAMM/mfdan-corpus.json").write_text('{"corpus": "licensed"}'),
        "SAMM", "mfdan-corpus.json", "no embedded corpus", ALL["SAMM"]),
    # clips whose folder is not as it should be
    "CASME II: a clip without folder": (lambda r: shutil.rmtree(r / CASME2 / "sub01/EP02_01f"),
        A, "EP02_01f", "folder of frames is missing", [A]),
    "SAMM: a clip without folder": (lambda r: shutil.rmtree(r / SAMM / "006/006_1_2"),
        B, "006_1_2", "folder of frames is missing", [B]),
    "a subject without folder": (lambda r: shutil.rmtree(r / CASME2 / "sub02"),
        "CASME II/sub02/EP01_11f", "sub02", "folder of frames is missing",
        ["CASME II/sub02/EP01_11f"]),
    "an empty folder": (lambda r: [f.unlink() for f in (r / SAMM / "006/006_1_2").iterdir()],
        B, "006_1_2", "holds no frames", [B]),
    "SMIC-HS: an empty folder": (lambda r: [f.unlink() for f in (r / SMIC_CLIP).iterdir()],
        "SMIC-HS/s1/s1_ne_01", "s1_ne_01", "holds no frames", [C]),
    "frames without annotation": (
        lambda r: shutil.copytree(r / CASME2 / "sub01/EP02_01f", r / CASME2 / "sub01/EP77_07"),
        "CASME II/sub01/EP77_07", "EP77_07", "no usable row in the annotation", []),
    "two kinds of frames in one folder": (
        lambda r: shutil.copy(r / CASME2 / "sub01/EP02_01f/img46.jpg",
                              r / CASME2 / "sub01/EP02_01f/reg_img46.jpg"),
        A, "reg_img46.jpg", "both frame 46", [A]),
    "one frame in two paddings": (
        lambda r: shutil.copy(r / SAMM / "006/006_1_2/006_5562.jpg",
                              r / SAMM / "006/006_1_2/006_05562.jpg"),
        B, "006_", "both frame 5562", [B]),
    "a subject in two folders": (
        lambda r: shutil.copytree(r / CASME2 / "sub01", r / CASME2 / "sub1"),
        "CASME II/sub1/EP02_01f", "sub1/EP02_01f", "there is also", []),
    "SMIC-HS: a clip in two folders": (
        lambda r: shutil.copytree(r / SMIC_CLIP, r / SMIC / "s01/micro/negative/s01_ne_01"),
        C, "s1_ne_01", "another folder of this clip", []),
    "SMIC-HS: a clip in the wrong class": (
        lambda r: (r / SMIC_CLIP).rename(r / SMIC / "s1/micro/positive/s1_ne_01"),
        "SMIC-HS/s1/s1_ne_01", "positive/s1_ne_01", "by its name it is negative", [C]),
    "SMIC-HS: a clip under the wrong subject": (
        lambda r: shutil.move(r / SMIC_CLIP, r / SMIC / "s2/micro/negative/s1_ne_01"),
        "SMIC-HS/s2/s1_ne_01", "s2/micro/negative/s1_ne_01", "under subject 's2'", [C]),
    "SMIC-HS: a name that is none": (
        lambda r: (r / SMIC_CLIP).rename(r / SMIC / "s1/micro/negative/clip"),
        "SMIC-HS/s1/clip", "negative/clip", "no name of an SMIC-HS clip", [C]),
    "a file that is not named like a frame": (
        lambda r: shutil.copy(r / SMIC_CLIP / "reg_image559740.bmp", r / SMIC_CLIP / "cover.bmp"),
        C, "cover.bmp", "not named like a frame", []),
    # frames
    "the onset is missing": (lambda r: [(r / SAMM / f"006/006_1_2/006_{n}.jpg").unlink()
                                        for n in (5562, 5563, 5564)],
        B, "006_1_2", "onset, frame 5562, is missing", [B]),
    "the apex is missing, and its neighbours": (
        lambda r: (with_clip(r, "CASME II", 0, offset=90, apex=60),),
        A, "EP02_01f", "apex, frame 60, is missing (nearest: 50)", [A]),
    "the apex is missing, not its neighbour": (
        lambda r: (r / CASME2 / "sub01/EP02_01f/img48.jpg").unlink(),
        A, "img47.jpg", "apex, frame 48, is missing", [A]),
    "the last frames are missing": (lambda r: with_clip(r, "CASME II", 0, offset=60),
        A, "EP02_01f", "10 of the 15 frames from onset to offset are missing", [A]),
    "an empty image": (lambda r: spoil(r / CASME2 / "sub01/EP02_01f/img46.jpg"),
        A, "img46.jpg", "is empty", [A]),
    "an empty image at the apex": (lambda r: spoil(r / SMIC_CLIP / "reg_image559742.bmp"),
        C, "reg_image559742.bmp", "is empty", [C]),
    "an empty image between onset and apex": (
        lambda r: spoil(r / SMIC_CLIP / "reg_image559741.bmp"),
        C, "reg_image559741.bmp", "frame 559741 is empty", []),
    "no image": (lambda r: spoil(r / SAMM / "006/006_1_2/006_5564.jpg", b"<html>404</html>"),
        B, "006_5564.jpg", "no image of a known kind", [B]),
    "a JPEG that breaks off": (lambda r: cut(r / CASME2 / "sub01/EP02_01f/img48.jpg", 0.9),
        A, "img48.jpg", "is damaged", [A]),
    "a BMP that breaks off": (lambda r: cut(r / SMIC_CLIP / "reg_image559740.bmp"),
        C, "reg_image559740.bmp", "is damaged", [C]),
    "an image of absurd size": (
        lambda r: fake_bmp(r / SMIC_CLIP / "reg_image559740.bmp", 9000, 9000),
        C, "reg_image559740.bmp", "9000x9000", [C]),
    "an image that would fill the memory": (
        lambda r: fake_bmp(r / SMIC_CLIP / "reg_image559740.bmp", 60000, 60000),
        C, "reg_image559740.bmp", "absurd size", [C]),
    "a single pixel": (lambda r: paint(r / CASME2 / "sub01/EP02_01f/img46.jpg", (1, 1)),
        A, "img46.jpg", "1x1 pixels", [A]),
    "onset and apex of two sizes": (
        lambda r: paint(r / CASME2 / "sub01/EP02_01f/img48.jpg", (40, 40)),
        A, "img48.jpg", "differ in size", [A]),
    "a folder in place of an image": (
        lambda r: [(r / SMIC_CLIP / "reg_image559740.bmp").unlink(),
                   (r / SMIC_CLIP / "reg_image559740.bmp").mkdir()],
        C, "reg_image559740.bmp", "not named like a frame", [C]),
    "a link that leads nowhere": (
        lambda r: [(r / CASME2 / "sub01/EP02_01f/img50.jpg").unlink(),
                   (r / CASME2 / "sub01/EP02_01f/img50.jpg").symlink_to("gone.jpg")],
        A, "img50.jpg", "not named like a frame", [A]),
    "the frame before the apex would be the onset": (
        lambda r: [with_clip(r, "CASME II", 0, apex=47),
                   (r / CASME2 / "sub01/EP02_01f/img47.jpg").unlink()],
        A, "img48.jpg", "its apex, frame 47, is missing", [A]),
    "nothing between onset and offset": (
        lambda r: [(r / CASME2 / f"sub01/EP02_01f/img{n}.jpg").unlink() for n in range(47, 51)],
        A, "EP02_01f", "no frame between onset and offset", [A]),
    "frames only after the offset": (
        lambda r: [(r / CASME2 / "sub01/EP02_01f/img47.jpg").rename(
                        r / CASME2 / "sub01/EP02_01f/img60.jpg"),
                   *((r / CASME2 / f"sub01/EP02_01f/img{n}.jpg").unlink() for n in (48, 49, 50)),
                   with_clip(r, "CASME II", 0, apex="/")],
        A, "EP02_01f", "no frame between onset and offset", [A]),
    "a clip of one frame": (
        lambda r: [f.unlink() for f in sorted((r / SMIC_CLIP).iterdir())[1:]],
        C, "s1_ne_01", "not before its offset", [C]),
    # what the annotation says
    "onset after apex": (lambda r: with_clip(r, "SAMM", 0, apex=5000),
        B, "SAMM_Micro", "its apex 5000 outside 5562..5566", [B]),
    "apex after offset": (lambda r: with_clip(r, "SAMM", 0, apex=5570),
        B, "SAMM_Micro", "its apex 5570 outside 5562..5566", [B]),
    "apex on onset": (lambda r: with_clip(r, "CASME II", 0, apex=46),
        A, "CASME2-coding", "its apex on its onset", [A]),
    "no apex": (lambda r: with_clip(r, "CASME II", 0, apex="/"),
        A, "CASME2-coding", "no apex", [A]),
    "onset after offset": (lambda r: with_clip(r, "CASME II", 0, onset=90),
        A, "CASME2-coding", "onset 90 is not before its offset 50", [A]),
    "no onset": (lambda r: rewrite(r, "CASME II", change=set_cell(1, 3, None)),
        A, "CASME2-coding", "its onset is blank", [A]),
    "no offset": (lambda r: rewrite(r, "CASME II", change=set_cell(1, 5, None)),
        A, "CASME2-coding", "its offset is blank", []),
    "a number that is none": (lambda r: with_clip(r, "SAMM", 0, apex="about 5564"),
        "SAMM/006/006_1_2", "SAMM_Micro", "'about 5564' is no frame number", [B]),
    "a number with a fraction": (lambda r: with_clip(r, "CASME II", 0, apex=48.5),
        "EP02_01f", "CASME2-coding", "48.5 is no frame number", [A]),
    "a negative number": (lambda r: rewrite(r, "CASME II", change=set_cell(1, 3, -46)),
        "EP02_01f", "CASME2-coding", "-46 is no frame number", [A]),
    "a wrong label": (lambda r: with_clip(r, "CASME II", 0, emotion="hapiness"),
        A, "CASME2-coding", "'hapiness' is none", [A]),
    "no label": (lambda r: with_clip(r, "SAMM", 0, emotion=None),
        B, "SAMM_Micro", "emotion ''", [B]),
    "another database's label": (lambda r: with_clip(r, "SAMM", 0, emotion="negative"),
        B, "SAMM_Micro", "'negative' is none", [B]),
    "a duplicate": (lambda r: add_row(r, "CASME II", few()["CASME II"][0]),
        A, "CASME2-coding", "2 rows of this name", []),
    "a duplicate that contradicts": (
        lambda r: add_row(r, "CASME II", Made(1, "EP02_01f", "disgust")),
        A, "CASME2-coding", "contradict each other", [A]),
    "a name that leaves its folder": (
        lambda r: add_row(r, "CASME II", Made(1, "../sub02/EP01_11f", "disgust")),
        "../sub02/EP01_11f", "CASME2-coding", "is no clip name", []),
    "a name that is an absolute path": (
        lambda r: add_row(r, "CASME II", Made(1, "/etc/passwd", "disgust")),
        "/etc/passwd", "CASME2-coding", "is no clip name", []),
    "a subject that leaves its folder": (
        lambda r: rewrite(r, "CASME II", change=set_cell(1, 0, "../sub02")),
        "../sub02/EP02_01f", "CASME2-coding", "'../sub02' is no subject", [A]),
    "no subject": (lambda r: rewrite(r, "SAMM", change=set_cell(14, 0, None)),
        "006_1_2", "SAMM_Micro", "None is no subject", [B]),
    "no name": (lambda r: rewrite(r, "SAMM", change=set_cell(14, 1, None)),
        "SAMM/006", "SAMM_Micro", "None is no clip name", [B]),
    "SAMM: a clip under another subject": (
        lambda r: rewrite(r, "SAMM", change=set_cell(14, 0, "007")),
        "SAMM/007/006_1_2", "SAMM_Micro", "stands under subject '007'", [B]),
    "a clip that is annotated and nowhere": (
        lambda r: add_row(r, "SAMM", Made(9, "009_1_1", "Fear")),
        "SAMM/009/009_1_1", "009_1_1", "folder of frames is missing", []),
    "a short row": (
        lambda r: rewrite(r, "CASME II", change=lambda rows: rows.append(["03", "EP05_05"])),
        "CASME II/sub03/EP05_05", "EP05_05", "folder of frames is missing", []),
}
CHANGED = {  # clips that stay, with a stand-in that the report names
    "the apex is missing, not its neighbour": ("happiness", 46, 47, 50, "annotation"),
    "the frame before the apex would be the onset": ("happiness", 46, 48, 50, "annotation"),
    "the last frames are missing": ("happiness", 46, 48, 60, "annotation"),
    "onset after apex": ("anger", 5562, 5564, 5566, "middle"),
    "apex after offset": ("anger", 5562, 5564, 5566, "middle"),
    "apex on onset": ("happiness", 46, 48, 50, "middle"),
    "no apex": ("happiness", 46, 48, 50, "middle"),
    "a folder in place of an image": ("negative", 559741, 559742, 559744, "middle"),
    "a link that leads nowhere": EXPECTED[A],
}


def test_there_are_enough_cases(): assert len(BAD) >= 40


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_and_the_rest_still_loads(root, case):
    plant, clip, file, words, lost = BAD[case]
    plant(root)
    reading = read_root(root)
    assert any(clip in p.clip_id and file in p.file and words in p.problem
               for p in reading.problems.itertuples()), said(reading)
    sound = {k: v for k, v in EXPECTED.items() if k not in lost}
    if case in CHANGED: sound[lost[0]] = CHANGED[case]
    assert seen(reading) == sound, said(reading)
    assert clip in reading.summary() and words in reading.summary()
    gone = bool(len(reading.left_out))
    assert gone >= (bool(lost) and case not in CHANGED and "not found" not in words)
    if gone:
        with pytest.raises(ValueError, match="strict"): read_root(root, strict=True)
    else: assert seen(read_root(root, strict=True)) == sound


def test_every_problem_says_what_to_do(root):
    for plant, *_ in list(BAD.values())[::7]:
        shutil.rmtree(root)
        layouts.write_all(root, few())
        plant(root)
        problems = read_root(root).problems
        left = problems[problems.severity == LEFT_OUT]
        assert (left.what_to_do.str.len() > 5).all() and set(problems.severity) <= {LEFT_OUT, NOTED}


def test_a_root_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"): read_root(tmp_path / "gone")


def test_a_root_without_any_database(tmp_path):
    (tmp_path / "holiday").mkdir()
    with pytest.raises(FileNotFoundError, match="no clip was found"): read_root(tmp_path)


def test_a_misspelt_database(tmp_path):
    with pytest.raises(ValueError, match="'CASME II'"): read_root({"CASME2": tmp_path})


def test_one_root_of_several_that_is_not_there(root, tmp_path):
    reading = read_root({"SAMM": root, "CASME II": tmp_path / "gone"})
    assert set(reading.clips.database) == {"SAMM"} and "gone" in said(reading, LEFT_OUT)


def test_a_root_that_holds_another_database(root):
    reading = read_root({"SAMM": root / "SAMM", "CASME II": root / "SMIC"})
    assert set(reading.clips.database) == {"SAMM"}
    assert "no CASME II was recognised" in said(reading, LEFT_OUT)


INDEX = {
    "no such file": (None, "no such file"),
    "a renamed column": ({"apex_frame": "apex"}, "columns are missing: ['apexframe']"),
}


@pytest.mark.parametrize("case", INDEX)
def test_a_bad_index_of_apexes_is_named_and_the_middle_frame_stands_in(root, tmp_path, case):
    columns, words = INDEX[case]
    path = tmp_path / "data_apex.csv"
    if columns: layouts.write_index(path, few()["SMIC-HS"], columns)
    reading = read_root(root, apex_index=path)
    assert seen(reading) == EXPECTED
    assert words in said(reading, LEFT_OUT) and str(path) in said(reading)


def test_odd_rows_of_an_index_are_named(root, tmp_path):
    first, second, third = few()["SMIC-HS"]
    rows = [replace(first, apex=559741), replace(first, apex=559743),
            replace(second, name="s1_xx_01"), replace(third, apex="soon")]
    reading = read_root(root, apex_index=layouts.write_index(tmp_path / "i.csv", rows))
    assert seen(reading) == EXPECTED
    for words in ("with two apexes", "'s1_xx_01'", "'soon'"): assert words in said(reading, NOTED)


@pytest.mark.parametrize("folder, lost", [
    (f"{CASME2}/sub01/EP02_01f", {A}), (f"{CASME2}/sub02", {"CASME II/sub02/EP01_11f"}),
    (SAMM, set(ALL["SAMM"]))])
def test_a_folder_that_may_not_be_read(root, monkeypatch, folder, lost):
    allowed = os.access  # whoever runs the tests may well be root
    monkeypatch.setattr(os, "access", lambda p, mode: Path(p) != root / folder and allowed(p, mode))
    reading = read_root(root)
    assert set(seen(reading)) == set(EXPECTED) - lost
    assert folder.split("/")[-1] in said(reading, LEFT_OUT) or lost == set(ALL["SAMM"])


def test_a_name_of_no_encoding_can_still_be_reported(root):
    os.mkdir(os.fsencode(root / CASME2 / "sub01") + b"/EP\xff01")
    reading = read_root(root)
    assert seen(reading) == EXPECTED and "EP\\udcff01" in said(reading)
    said(reading).encode()


def test_another_edition_of_casme_beside_is_not_mistaken(root):
    first = root / "A_CASME"  # the first CASME has subjects of the same names
    shutil.copytree(root / CASME2, first / "CASME2_RAW_selected")
    shutil.rmtree(first / "CASME2_RAW_selected/sub01/EP02_01f")
    reading = read_root(root)
    assert seen(reading) == EXPECTED and reading.problems.empty


def test_two_copies_beside_each_other_are_noted(root):
    shutil.copytree(root / "CASME2", root / "CASME2 (1)")
    shutil.copytree(root / "SMIC", root / "SMIC (1)")
    reading = read_root(root)
    assert seen(reading) == EXPECTED
    assert "a second annotation file" in said(reading, NOTED)
    assert "a second folder of frames" in said(reading, NOTED)


def test_the_check_names_what_differs(root):
    report = check_root(root)
    assert not report.ok and report.seconds < 60
    assert report.verdict().startswith("NOT complete: 9 of 442 clips of the composite; 0 left out")
    assert "SAMM negative" in report.verdict()
    shutil.rmtree(root / "SMIC")
    assert "(not at hand: SMIC-HS)" in check_root(root).verdict()


def test_a_fingerprint_is_that_of_the_copy_and_not_of_its_place(root, tmp_path):
    here = check_root(root).databases.fingerprint
    (tmp_path / "elsewhere").mkdir()
    moved = root.rename(tmp_path / "elsewhere/data")
    assert (check_root(moved).databases.fingerprint == here).all()
    spoil(moved / CASME2 / "sub01/EP02_01f/img49.jpg", b"other")
    changed = check_root(moved).databases.fingerprint != here
    assert changed.to_dict() == {"CASME II": True, "SAMM": False, "SMIC-HS": False}


@pytest.mark.parametrize("profile", ["paper", "quick"])
def test_the_counted_work_is_that_of_the_networks(profile):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from mfdan.core.config import PROFILES
    from mfdan.data.effort import EPOCHS, WORK
    from mfdan.network.mfdan import MFDAN
    from mfdan.pixels.magnet import magnify_bank
    from mfdan.zoo.contract import settings_of
    prepare, (model, train) = PROFILES[profile], settings_of("mfdan", profile)
    assert EPOCHS[profile] == train.epochs
    image = torch.zeros(1, 3, prepare.size, prepare.size)
    with FlopCounterMode(display=False) as training: MFDAN(model)(image, image).sum().backward()
    with torch.no_grad(), FlopCounterMode(display=False) as bank:
        magnify_bank(image, image, prepare.factors)
    counted = training.get_total_flops() / 1e9, bank.get_total_flops() / 1e9
    assert WORK[profile] == pytest.approx(counted, rel=0.2)


def test_the_counted_runs_are_those_of_the_tables():
    from collections import Counter

    from mfdan.data.effort import RUNS
    from mfdan.results.runs import paper_rows
    runs = {row.run.name: row.scope for row in paper_rows("paper", 1)}
    assert RUNS == Counter(runs.values())


# -- one image --------------------------------------------------------------------------------

@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    grey = np.tile(np.where(np.arange(32) < 16, 0, 255).astype(np.uint8), (24, 1))
    picture = Image.fromarray(grey).convert("RGB").convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    picture.save(path)
    read = read_image(path)
    assert read.shape == (24, 32, 3) and read.dtype == np.uint8 and read.flags.writeable
    assert (read == grey[..., None]).all()


def test_sixteen_bits_are_scaled_by_the_full_range(tmp_path):
    dark = np.full((24, 32), 1000, np.uint16)
    Image.fromarray(dark).save(tmp_path / "dark.png")
    assert (read_image(tmp_path / "dark.png") == round(1000 / 257)).all()  # not stretched to 255
    Image.fromarray(dark * 0 + 65535).save(tmp_path / "white.png")
    assert (read_image(tmp_path / "white.png") == 255).all()


def test_floats_are_refused(tmp_path):
    Image.fromarray(np.ones((24, 32), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(ImageError, match="neither 8 nor 16 bits"): read_image(tmp_path / "f.tif")
