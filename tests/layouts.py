"""Fabricates the official layouts with tiny images: annotations, folders, and how copies vary.

No licensed content: names and labels are invented, or come from the list beside the checkout.
"""
import os
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from openpyxl import Workbook
from PIL import Image

MEMBERS = Path(__file__).resolve().parents[2] / "shared/paper/cde442.csv"
CASME2_EMOTIONS = {"happiness": 32, "disgust": 63, "repression": 27, "surprise": 25, "others": 99,
                   "sadness": 7, "fear": 2}  # 255 rows
SAMM_EMOTIONS = {"Anger": 57, "Contempt": 12, "Disgust": 9, "Fear": 8, "Sadness": 6,
                 "Happiness": 26, "Surprise": 15, "Other": 26}  # 159 rows
SMIC_EMOTIONS = {"negative": 70, "positive": 51, "surprise": 43}  # 164 folders
SMIC_SUBJECTS = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 14, 15, 18, 19, 20)
KIND = {"negative": "ne", "positive": "po", "surprise": "sur"}


@dataclass(frozen=True)
class Made:
    "A clip to write. `apex` may be anything that stands in a cell."
    subject: int
    name: str
    emotion: str
    onset: int = 46
    apex: object = 48
    offset: int = 50


class Painter:
    "Writes one tiny image a clip and links to it, so that ten thousand frames take a second."

    def __init__(self, folder: Path, size=(32, 24), mode="RGB"):
        self.folder, self.size, self.mode = folder, size, mode
        folder.mkdir(parents=True, exist_ok=True)

    def frame(self, path: Path) -> None:
        clip = "/".join(path.parts[-3:-1])  # no two clips hold the same frames
        seed = self.folder / f".{clip.replace('/', '-')}{path.suffix}"
        if not seed.exists():
            random = np.random.default_rng(zlib.crc32(clip.encode()))
            noise = random.integers(0, 256, (*self.size[::-1], 3), dtype=np.uint8)
            Image.fromarray(noise).convert(self.mode).save(seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(seed, path)


def unlink(path: Path) -> Path:
    "Give a frame its own bytes before a test spoils them."
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    return path


def workbook(path: Path, rows, sheet="Sheet1", others=(), first="") -> Path:
    book = Workbook()
    book.active.title = sheet
    for row in rows: book.active.append(list(row))
    for name in others: book.create_sheet(name).append(["nothing"])
    if first: book.create_sheet(first, 0).append(["Subject", "Filename", "nothing else"])
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)
    return path


# -- CASME II ---------------------------------------------------------------------------------

CASME2_HEADER = ("Subject", "Filename", None, "OnsetFrame", "ApexFrame", "OffsetFrame", None,
                 "Action Units", "Estimated Emotion")


def casme2_rows(clips, subject="text", blanks=True, units=("4", 12, "R12+15")):
    header = [c for c in CASME2_HEADER if blanks or c]
    rows = [header]
    for i, c in enumerate(clips):
        who = {"text": f"{c.subject:02d}", "int": c.subject, "float": float(c.subject)}[subject]
        gap = (None,) if blanks else ()
        rows.append([who, c.name, *gap, c.onset, c.apex, c.offset, *gap, units[i % len(units)],
                     c.emotion])
    return rows


def write_casme2(root: Path, clips, frames="raw", sheet="CASME2-coding-20140508.xlsx",
                 doubled=False, **how) -> Path:
    "`root/CASME2/...`; frames are 'raw' or 'cropped'; `doubled` is what some unpackers make."
    home, painter = root / "CASME2", Painter(root / ".seeds")
    workbook(home / sheet, casme2_rows(clips, **how))
    folder, stem = {"raw": ("CASME2_RAW_selected", "img"),
                    "cropped": ("Cropped", "reg_img")}[frames]
    base = home / folder / folder if doubled else home / folder
    for c in clips:
        for n in range(c.onset, c.offset + 1):
            painter.frame(base / f"sub{c.subject:02d}" / c.name / f"{stem}{n}.jpg")
    return home


# -- SAMM -------------------------------------------------------------------------------------

SAMM_HEADER = ("Subject", "Filename", "Inducement Code", "Onset Frame", "Apex Frame",
               "Offset Frame", "Duration", "Micro", "Action Units", "Estimated Emotion",
               "Objective Classes", "Notes")


def samm_rows(clips, subject="text", text_rows=13):
    rows = [[f"SAMM, line {i + 1} of the owners' text"] for i in range(text_rows)] + [SAMM_HEADER]
    for c in clips:
        who = f"{c.subject:03d}" if subject == "text" else c.subject
        rows.append([who, c.name, 1, c.onset, c.apex, c.offset, c.offset - c.onset + 1,
                     "Micro - 1/2", "4 or 7", c.emotion, 1, None])
    return rows


def write_samm(root: Path, clips, mode="L", first="", **how) -> Path:
    "`root/SAMM/...`; the width of a frame's number depends on the clip."
    home, painter = root / "SAMM", Painter(root / ".seeds", mode=mode)
    workbook(home / "SAMM_Micro_FACS_Codes_v2.xlsx", samm_rows(clips, **how), "MICRO_ONLY",
             ["ALL"], first)
    for i, c in enumerate(clips):
        for n in range(c.onset, c.offset + 1):
            painter.frame(home / "SAMM" / f"{c.subject:03d}" / c.name
                          / f"{c.subject:03d}_{n:0{4 + i % 2}d}.jpg")
    return home


# -- SMIC-HS ----------------------------------------------------------------------------------

def write_smic(root: Path, clips, frames="cropped", padded=False, others=()) -> Path:
    "`root/SMIC/...`; `padded` writes s01 instead of s1; `others` are sibling cameras, VIS and NIR."
    home, painter = root / "SMIC", Painter(root / ".seeds")
    folder, stem = {"cropped": ("SMIC_all_cropped", "reg_image"),
                    "raw": ("SMIC_all_raw", "image")}[frames]
    for camera in ("HS", *others):
        for c in clips:
            subject = f"s{c.subject:02d}" if padded else f"s{c.subject}"
            name = f"{subject}_{c.name.split('_', 1)[1]}"
            for n in range(c.onset, c.offset + 1):
                painter.frame(home / folder / camera / subject / "micro" / c.emotion / name
                              / f"{stem}{n}.bmp")
    return home


def write_index(path: Path, clips, columns=None) -> Path:
    "A file of published apexes, with the columns of data_apex.csv."
    rows = [dict(data="smic", subject=c.subject, clip=c.name, label=0, onset_frame=c.onset,
                 apex_frame=c.apex, offset_frame=c.offset, onset_frame_path="a",
                 apex_frame_path="b", offset_frame_path="c", data_sub=f"smic_{c.subject}")
            for c in clips]
    rows.append({**rows[0], "data": "samm", "clip": "006_1_2"})
    pd.DataFrame(rows).rename(columns=columns or {}).to_csv(path, index=False)
    return path


# -- whole databases --------------------------------------------------------------------------

def spread(emotions: dict, subjects) -> list[tuple[int, str]]:
    "One (subject, emotion) a clip; every subject has some of the frequent emotions."
    flat = [e for e, n in emotions.items() for _ in range(n)]
    return [(subjects[i % len(subjects)], e) for i, e in enumerate(flat)]


def fabricated() -> dict[str, list[Made]]:
    "Databases with the published statistics and invented names."
    casme2 = [Made(s, f"EP{i // 9:02d}_{i % 9 + 1:02d}f", e)
              for i, (s, e) in enumerate(spread(CASME2_EMOTIONS, range(1, 27)))]
    spoiled = [i for i, c in enumerate(casme2) if c.emotion == "disgust"][:2]
    for i, subject, name, apex in zip(spoiled, (4, 5), ("EP12_01f", "EP09_05f"), ("/", 46)):
        casme2[i] = replace(casme2[i], subject=subject, name=name, apex=apex)
    samm = [Made(s, f"{s:03d}_{i // 20 + 1}_{i % 20 + 1}", e, onset=5562, apex=5564, offset=5566)
            for i, (s, e) in enumerate(spread(SAMM_EMOTIONS, range(6, 34)))]
    smic = [Made(s, f"s{s}_{KIND[e]}_{i:02d}", e, 559740, None, 559744)
            for i, (s, e) in enumerate(spread(SMIC_EMOTIONS, SMIC_SUBJECTS))]
    return {"CASME II": casme2, "SAMM": samm, "SMIC-HS": smic}


def from_members() -> dict[str, list[Made]]:
    "Databases whose members are those of the list beside the checkout; other rows are invented."
    members = pd.read_csv(MEMBERS, dtype=str)
    words = {"CASME II": {"negative": ["disgust"] * 61 + ["repression"] * 27,
                          "positive": ["happiness"] * 32, "surprise": ["surprise"] * 25},
             "SAMM": {"negative": [e for e in ("Anger", "Contempt", "Disgust", "Fear", "Sadness")
                                   for _ in range(SAMM_EMOTIONS[e])],
                      "positive": ["Happiness"] * 26, "surprise": ["Surprise"] * 15},
             "SMIC-HS": {c: [c] * n for c, n in SMIC_EMOTIONS.items()}}
    made = {d: [] for d in words}
    for row in members.itertuples():
        number = int("".join(ch for ch in row.subject if ch.isdigit()))
        made[row.database].append(Made(number, row.clip, words[row.database][row.label].pop()))
    made["SMIC-HS"] = [replace(c, apex=None, onset=559740, offset=559744) for c in made["SMIC-HS"]]
    made["CASME II"] += [Made(4, "EP12_01f", "disgust", apex="/"),
                         Made(5, "EP09_05f", "disgust", apex=46)]
    extra = ["others"] * 99 + ["sadness"] * 7 + ["fear"] * 2
    made["CASME II"] += [Made(i % 26 + 1, f"EP99_{i:02d}", e) for i, e in enumerate(extra)]
    subjects = sorted({c.subject for c in made["SAMM"]})
    made["SAMM"] += [Made(s, f"{s:03d}_9_{i}", "Other")
                     for i, s in enumerate(subjects[i % 28] for i in range(26))]
    return made


def write_all(root: Path, made=None) -> Path:
    "All three databases below one root, in the most usual layout."
    made = made or fabricated()
    write_casme2(root, made["CASME II"])
    write_samm(root, made["SAMM"])
    write_smic(root, made["SMIC-HS"])
    return root


def few() -> dict[str, list[Made]]:
    "Three clips a database, for tests that spoil something."
    return {
        "CASME II": [Made(1, "EP02_01f", "happiness"), Made(1, "EP19_05f", "disgust"),
                     Made(2, "EP01_11f", "repression")],
        "SAMM": [Made(6, "006_1_2", "Anger", 5562, 5564, 5566), Made(6, "006_1_3", "Happiness"),
                 Made(7, "007_5_3", "Surprise")],
        "SMIC-HS": [Made(1, "s1_ne_01", "negative", 559740, None, 559744),
                    Made(1, "s1_po_01", "positive", 701843, None, 701847),
                    Made(2, "s2_sur_01", "surprise", 90868, None, 90872)],
    }
