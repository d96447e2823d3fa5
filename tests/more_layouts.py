"""Fabricates the official trees of the databases beside the paper's three, with all their traps.

No licensed content: subjects, names and frame numbers are invented; counts and traps are published.
Each writer returns what a reader must find.
"""
import os
import zlib
from itertools import product
from pathlib import Path

import numpy as np
from layouts import spread
from openpyxl import Workbook
from PIL import Image

from mfdan.data.registry import record_of

SEEDS = ".seeds-of-frames"


def frames(root: Path, folder: str, name: str, numbers) -> None:
    "Frames of one folder: links to one tiny image, which no other folder has."
    home, suffix = root / folder, Path(name).suffix
    seed = root / SEEDS / f"{zlib.crc32(folder.encode()):08x}{suffix}"
    seed.parent.mkdir(parents=True, exist_ok=True)
    home.mkdir(parents=True, exist_ok=True)
    if not seed.exists():
        random = np.random.default_rng(zlib.crc32(folder.encode()))
        Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(seed)
    for n in numbers: os.link(seed, f"{home}/{name.format(n)}")


def book(path: Path, sheets: dict) -> Path:  # title -> rows
    "A workbook."
    made = Workbook()
    made.remove(made.active)
    for title, rows in sheets.items():
        page = made.create_sheet(title)
        for row in rows: page.append(list(row))
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save(path)
    return path


def header(sheet) -> list: return [column.title for column in sheet.columns]


def cells(sheet, said: dict) -> list: return [said.get(column.says) for column in sheet.columns]


# -- CASME ------------------------------------------------------------------------------------

CASME_RIGHT = {40: (100, 120, 149), 42: (101, 110, 119), 43: (57, 65, 74)}  # row -> the folder's
CASME_OFFSET = {54: 40, 140: 142}


def write_casme(root: Path) -> dict:  # clip_id -> emotion, onset, apex, offset
    sheet, home = record_of("CASME").sheet, root / "CASME"
    kinds = {"tense": 69, "disgust": 44, "repression": 38, "surprise": 18, "happiness": 9,
             "sadness": 6, "contempt": 3, "fear": 2}
    rows, expected = [header(sheet)], {}
    for i, (subject, emotion) in enumerate(spread(kinds, range(1, 20))):
        name = f"EP{i // 19:02d}_{i % 19 + 1:02d}"
        onset, apex, offset = CASME_RIGHT.get(i, (20, 24, CASME_OFFSET.get(i, 28)))
        said = dict(subject=subject, name=name, emotion=emotion, onset=onset, apex=apex,
                    offset=offset, units="4+7", apex2=26 if i == 5 else None)
        if i in CASME_RIGHT: said |= {"onset": 1, "apex": 2, "offset": 3}  # out of order
        if i in CASME_OFFSET: said["offset"] = 900
        rows.append(cells(sheet, said))
        frames(root, f"CASME/CASME_raw_selected/sub{subject:02d}/{name}", f"{name}-{{}}.jpg",
               range(onset, offset + 1))
        expected[f"CASME/sub{subject:02d}/{name}"] = (emotion, onset, apex, offset)
    book(home / "casme.xlsx", {"Sheet1": rows})
    return expected


# -- CAS(ME)² ---------------------------------------------------------------------------------

VIDEOS_SQ = {"0101": "disgust1", "0102": "disgust2", "0401": "anger1", "0402": "anger2",
             "0502": "happy1", "0503": "happy2", "0505": "happy3", "0507": "happy4",
             "0508": "happy5"}


def write_casme_sq(root: Path, length: int = 60) -> tuple[dict, dict]:  # clips; events by clip_id
    sheet, home = record_of("CAS(ME)²").sheet, root / "CASME_sq"
    people = [15, 16, *range(19, 28), *range(29, 39), 40]
    videos = list(product(VIDEOS_SQ.items(), enumerate(people, 1)))[:98]
    kinds = [(e, "micro-expression") for e, n in {"negative": 21, "others": 19, "surprise": 9,
                                                  "positive": 8}.items() for _ in range(n)]
    kinds += [("negative", "macro-expression")] * 300
    rows, clips, events = [], {}, {}
    for (code, _), (_, person) in videos:
        frames(root, f"CASME_sq/rawpic/s{person}/{person}_{code}invented", "img{:03d}.jpg",
               range(1, length + 1))
    for i, (emotion, kind) in enumerate(kinds):
        (_, word), (number, person) = videos[i % 95]  # three videos have no event
        onset = 3 + 9 * (i // 95)
        said = dict(subject=number, name=f"{word}_{i // 95 + 1}", onset=onset, apex=onset + 4,
                    offset=onset + 8, units="4+7", emotion=emotion, type=kind, report="anger")
        macro = kind.startswith("macro")
        missing = macro and i >= 357 - 44
        if missing: said["offset"] = 0
        rows.append(cells(sheet, said))
        clip = f"CAS(ME)²/s{person}/{said['name']}"
        end = onset + 4 if missing else onset + 8
        events[clip] = (kind[:5], onset, onset + 4, end, emotion)
        if not macro: clips[clip] = (emotion, onset, onset + 4, end)
    rules = [[person, f"s{person}", number] for number, person in enumerate(people, 1)]
    book(home / sheet.official, {"CASFEcode_final": rows, "naming rule1": rules,
                                 "naming rule2": [[a, b] for a, b in VIDEOS_SQ.items()]})
    return clips, events


# -- MMEW -------------------------------------------------------------------------------------

def write_mmew(root: Path, layout: str = "people") -> dict:
    from mfdan.data.mmew import APEXES, OFFSETS, WRONG
    sheet, right = record_of("MMEW").sheet, dict(zip(WRONG, zip(APEXES, OFFSETS)))
    kinds = {"surprise": 89, "disgust": 72, "others": 66, "happiness": 36, "fear": 16,
             "sadness": 13, "anger": 8}
    rows, expected = [header(sheet)], {}
    for i, (person, emotion) in enumerate(spread(kinds, range(1, 37))):
        number = [*kinds].index(emotion) + 1
        name = f"S{person:02d}-{number:02d}-{i:03d}"
        apex, offset = right.get(i, (4, 9))
        wrong = i in right
        rows.append(cells(sheet, dict(
            subject=f"S{person:02d}", name=name, onset=1, apex=900 if wrong else apex,
            offset=901 if wrong else offset, units="4", emotion=emotion)))
        folder = "repression" if emotion == "others" else emotion
        above = {"people": f"S{person:02d}/{folder}", "emotions": f"Micro_Expression/{folder}"}
        frames(root, f"MMEW/{above[layout]}/{name}", "{}.jpg", range(1, offset + 1))
        expected[f"MMEW/S{person:02d}/{name}"] = (emotion, 1, apex, offset)
    book(root / "MMEW/MMEW_Micro_Exp.xlsx", {"Sheet1": rows})
    return expected


# -- CAS(ME)³ ---------------------------------------------------------------------------------

A_KINDS = {"disgust": 250, "surprise": 187, "others": 158, "Others": 3, "fear": 86, "anger": 64,
           "sad": 57, "happy": 55}
A_RIGHT = {708: (20, 25, 34), 749: (2647, 2650, 2655), 750: (1, 1, 6), 796: (1838, 1840, 1845),
           798: (2396, 2400, 2403)}


def write_casme3_a(root: Path, every: bool = False) -> tuple[dict, dict]:
    "Clips, and events by clip_id; `every` writes the sheet of macro-expressions, too."
    record = record_of("CAS(ME)³ A")
    rows, more = [header(record.sheet)], [header(record.events)]
    clips, events, wanted = {}, {}, {}
    for i, (person, emotion) in enumerate(spread(A_KINDS, range(1, 95))):
        take = i // 94
        letter = "J" if person == 3 else "abcdefghij"[take % 4]
        onset, apex, offset = A_RIGHT.get(i, (50 * take + 1, 50 * take + 6, 50 * take + 12))
        said = dict(subject=f"spNO.{person}", name=letter, onset=onset, apex=apex, offset=offset,
                    units="4+7", emotion=emotion)
        if 100 <= i < 154: said["apex"] = onset  # with row 750 these are the 55
        if i in (708, 796, 798): said["offset"] = onset - 10
        if i == 749: said |= {"onset": 12647}
        if i == 750: said |= {"onset": 9, "apex": 8}
        if i == 600: said["offset"] = onset - 1
        if i == 601: said["offset"] = 1 if onset > 2326 else 0
        if 610 <= i < 682: said["offset"] = onset + (3456 if i == 610 else 61)
        rows.append(cells(record.sheet, said))
        more.append(cells(record.events, said | {"kind": "Micro-expression"}))
        folder = f"part_A/spNO.{person}/{letter}/color"
        wanted.setdefault(folder, set()).update(range(onset, offset + 1))
        if i in (600, 601): continue  # a duration below zero, in no list of corrections
        clip = f"CAS(ME)³ A/spNO.{person}/{letter}_{said['onset']}"
        end = offset if i in A_RIGHT else said["offset"]
        # None: the middle, of what is there
        used = apex if said["apex"] != onset and apex > onset else None
        clips[clip] = (emotion.lower(), onset, used, end)
        events[clip] = ("micro", onset, onset if said["apex"] == onset else apex, end,
                        emotion.lower())
    for folder, numbers in wanted.items():
        frames(root, f"CASME3/{folder}", "{}.jpg", sorted(numbers))
        frames(root, f"CASME3/{folder[:-5]}depth", "{}.png", [1])
    book(root / "CASME3" / record.sheet.official, {"label": rows})
    if every:
        said = dict(subject="spNO.1", name="a", onset=2, apex=30, offset=60, units="12",
                    kind="Macro-expression")
        more.append(cells(record.events, said))
        book(root / "CASME3" / record.events.official, {"Sheet1": more})
    return clips, events


def write_casme3_c(root: Path) -> dict:
    sheet, counts = record_of("CAS(ME)³ C").sheet, {}
    kinds = {"negative": 99, "surprise": 30, "others": 20, "positive": 16}
    rows, expected = [header(sheet)], {}
    for i, (person, emotion) in enumerate(spread(kinds, range(1, 31))):
        counts[person] = counts.get(person, 0) + 1
        rows.append(cells(sheet, dict(subject=person, name=counts[person], onset=4, offset=12,
                                      units="4，7" if i == 9 else "4,7", emotion=emotion)))
        frames(root, f"CASME3/ME_C/{person:02d}/{counts[person]}/color", "{}.jpg", range(4, 13))
        expected[f"CAS(ME)³ C/{person:02d}/{counts[person]}"] = (emotion, 4, 8, 12)
    book(root / "CASME3" / sheet.official, {"mockCrimeME": rows})
    return expected


# -- 4DME -------------------------------------------------------------------------------------

def write_fourdme(root: Path) -> dict:
    sheet = record_of("4DME").sheet
    rows, expected, emotions = [header(sheet)], {}, {}
    several = [("negative",), ("positive",), ("negative", "surprise"), ("others",), ("repression",)]
    for i in range(200):
        labels = several[i % 5]
        person, name = i % 25 + 1, f"c{i:03d}"
        said = dict(subject=person, name=name, said=" ".join(labels).title(), onset=3, apex=6,
                    offset=9, units="AU4+AU7(k)" if i == 7 else "AU4")
        rows.append(cells(sheet, said | dict.fromkeys(labels, 1)))
        frames(root, f"4DMicro/gray_micro/{person}/{name}", "{}.jpg", range(3, 10))
        emotions[i] = "+".join(labels)
        expected[f"4DME/{person:02d}/{name}"] = (emotions[i], 3, 6, 9)
    for row, other in ((144, 145), (145, 144)):  # the labels of rows 144 and 145 are swapped
        clip = f"4DME/{row % 25 + 1:02d}/c{row:03d}"
        expected[clip] = (emotions[other], *expected[clip][1:])
    book(root / "4DMicro" / sheet.official, {"Sheet1": rows})
    return expected


# -- SMIC's other cameras and long clips ------------------------------------------------------

WORD = {"negative": "ne", "positive": "po", "surprise": "sur"}


def write_camera(root: Path, camera: str) -> dict:
    expected = {}
    for i, (person, emotion) in enumerate(spread({"negative": 28, "positive": 23, "surprise": 20},
                                                 range(1, 9))):
        name = f"s{person}_{WORD[emotion]}_{i:02d}"
        frames(root, f"SMIC/SMIC_all_cropped/{camera}/s{person}/micro/{emotion}/{name}",
               "reg_image{:06d}.bmp", range(100, 105))
        expected[f"SMIC-{camera}/s{person:02d}/s{person:02d}_{WORD[emotion]}_{i:02d}"] = (
            emotion, 100, 102, 104)
    return expected


BEFORE = ("s20_ne_06", "s20_ne_09", "s20_sur_02", "s18_ne_01", "s18_sur_03")


def write_smic_long(root: Path) -> dict:
    sheet, expected = record_of("SMIC-HS-E").sheet, {}
    people = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 14, 15, 18, 19, 20)
    named = [*BEFORE, "s1_ne_03"]
    taken = {(int(n[1:n.index("_")]), n.split("_")[1]) for n in named}
    for i in range(157 - len(named)):
        named.append(f"s{people[i % 16]}_{['ne', 'po', 'sur'][i % 3]}_{30 + i:02d}")
    assert len(set(named)) == 157 and taken
    rows = [header(sheet)]
    for i, name in enumerate(named):
        person, word = int(name.split("_")[0][1:]), name.split("_")[1]
        emotion = {v: k for k, v in WORD.items()}[word]
        first = 658500 if name == "s1_ne_03" else 1000 * (i + 1)
        onset = 658536 if name == "s1_ne_03" else first + 5
        said = dict(subject=person, name=name, onset=onset, offset=onset + 10, first=first,
                    last=first + 80, emotion=emotion)
        clip = f"SMIC-HS-E/s{person:02d}/s{person:02d}_{word}_{name.split('_')[2]}"
        expected[clip] = (emotion, onset, onset + 5, onset + 10)
        if i % 5 == 0:
            said |= dict(onset2=onset + 15, offset2=onset + 25)
            expected[f"{clip}_2"] = (emotion, onset + 15, onset + 20, onset + 25)
        if name in BEFORE:
            said |= dict(onset3=33, offset3=44)
        elif i % 15 == 0:
            said |= dict(onset3=onset + 30, offset3=onset + 40)
            expected[f"{clip}_3"] = (emotion, onset + 30, onset + 35, onset + 40)
        if name == "s1_ne_03": said |= dict(first=650000, last=650699)
        rows.append(cells(sheet, said))
        frames(root, f"SMIC/HS_long/SMIC_HS_E/s{person:02d}/{name}", "image{:06d}.jpg",
               range(first, first + 81))
    book(root / "SMIC" / sheet.official, {"HS": rows, "VIS": [header(sheet)]})
    return expected


# -- SAMM long videos -------------------------------------------------------------------------

def write_samm_long(root: Path, length: int = 60) -> dict:
    sheet, expected = record_of("SAMM-LV").sheet, {}
    people = [p for p in range(6, 38) if p not in (29, 32)]  # 30
    videos = [(p, v) for v in range(1, 6) for p in people][:147]
    rows = [[f"SAMM, line {i + 1} of the owners' text"] for i in range(10)] + [header(sheet)]
    for i in range(502):
        person, video = videos[i % 147]
        onset, kind = 3 + 9 * (i // 147), "Macro" if i < 343 else "Micro - 1/2"
        name = f"{person:03d}_{video}_{i // 147 + 1}"
        said = dict(subject=f"{person:03d}", name=name, onset=onset, apex=onset + 4,
                    offset=onset + 8, type=kind, units="4")
        apex = onset + 4
        if i < 10:
            said["onset"], onset = 0, 1
        elif i < 153:
            said["onset"] = onset + 0.25
        if 400 <= i < 406: said["apex"], apex = -1, None
        rows.append(cells(sheet, said))
        event = (kind[:5].lower(), onset, apex, said["offset"], "")
        expected[f"SAMM-LV/{person:03d}/{name}"] = event
    for person, video in videos:
        frames(root, f"SAMMLV/SAMM_longvideos/{person:03d}_{video}",
               f"{person:03d}_{video}_{{:04d}}.jpg", range(1, length + 1))
    book(root / "SAMMLV" / sheet.official, {"FACS_Movement_Only": rows, "Index": [["nothing"]]})
    return expected


def write_more(root: Path) -> None:
    "All of them below one root."
    write_casme(root)
    write_casme_sq(root)
    write_mmew(root)
    write_casme3_a(root)
    write_casme3_c(root)
    write_fourdme(root)
    for camera in ("VIS", "NIR"): write_camera(root, camera)
    write_smic_long(root)
    write_samm_long(root)
