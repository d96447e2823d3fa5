"""Nothing is silently wrong: each planted fault is found, and named with what to do."""
import json
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import layouts
import numpy as np
import pandas as pd
import pytest
import torch
from layouts import Made, few
from PIL import Image

from mfdan.core.config import FitConfig
from mfdan.data.check import check_root
from mfdan.data.images import ImageError, probe_image, read_image
from mfdan.data.planted import planted
from mfdan.data.prepared import load_prepared, save_prepared
from mfdan.data.problems import LEFT_OUT
from mfdan.data.root import read_root
from mfdan.pixels.flow import tvl1
from mfdan.pixels.magnet import magnify, magnify_linear
from mfdan.training.audit import audit_fold
from mfdan.training.fold import train_fold
from mfdan.training.plan import Run, plan
from mfdan.zoo.linear import LinearConfig

CASME2, SAMM, SMIC = "CASME2/CASME2_RAW_selected", "SAMM/SAMM", "SMIC/SMIC_all_cropped/HS"
ALL = {"CASME II/sub01/EP02_01f", "CASME II/sub01/EP19_05f", "CASME II/sub02/EP01_11f",
       "SAMM/006/006_1_2", "SAMM/006/006_1_3", "SAMM/007/007_5_3", "SMIC-HS/s01/s01_ne_01",
       "SMIC-HS/s01/s01_po_01", "SMIC-HS/s02/s02_sur_01"}


def one_line(text) -> str:
    text = str(text)
    assert text and "\n" not in text and len(text) < 500, text
    return text


def lines(reading, severity=None) -> str:
    rows = reading.problems
    rows = rows if severity is None else rows[rows.severity == severity]
    return "\n".join(" | ".join(row) for row in rows.itertuples(index=False))


def read(*args):
    "What is read, even if it is nothing."
    return read_root(*args)


@pytest.fixture
def root(tmp_path) -> Path: return layouts.write_all(tmp_path / "copy", few())


# -- 4: what cannot be listed -----------------------------------------------------------------

def of(database): return {clip_id for clip_id in ALL if clip_id.startswith(database)}


CLOSED = {  # folder: clips that are lost, what the line is about
    "SMIC-HS: micro": (f"{SMIC}/s1/micro", {"SMIC-HS/s01/s01_ne_01", "SMIC-HS/s01/s01_po_01"}),
    "SMIC-HS: a class": (f"{SMIC}/s1/micro/negative", {"SMIC-HS/s01/s01_ne_01"}),
    "SMIC-HS: a subject": (f"{SMIC}/s2", {"SMIC-HS/s02/s02_sur_01"}),
    "SMIC-HS: a clip": (f"{SMIC}/s2/micro/surprise/s2_sur_01", {"SMIC-HS/s02/s02_sur_01"}),
    "SMIC-HS: all subjects": (SMIC, of("SMIC")),
    "CASME II: a subject": (f"{CASME2}/sub02", {"CASME II/sub02/EP01_11f"}),
    "CASME II: a clip": (f"{CASME2}/sub02/EP01_11f", {"CASME II/sub02/EP01_11f"}),
    "CASME II: the folder of frames": (CASME2, of("CASME")),
    "SAMM: the folder of frames": (SAMM, of("SAMM")),
    "SAMM: everything": ("SAMM", of("SAMM")),
}


@pytest.mark.parametrize("case", CLOSED)
def test_what_cannot_be_listed_is_named_with_the_right_advice(root, monkeypatch, case):
    folder, lost = CLOSED[case]
    allowed = os.access  # whoever runs the tests may well be root
    monkeypatch.setattr(os, "access", lambda p, mode: Path(p) != root / folder and allowed(p, mode))
    reading = read(root)
    assert {*reading.clips.clip_id} == ALL - lost
    named = reading.left_out[reading.left_out.file == str(root / folder)]
    assert len(named) and (named.problem == "it may not be read").all(), lines(reading)
    assert (named.what_to_do == "change its permissions").all()
    assert "unpack" not in lines(reading, LEFT_OUT)  # which would not help


def test_a_subject_in_which_no_clip_is_to_be_seen(root):
    shutil.rmtree(root / SMIC / "s2/micro/surprise")
    assert "SMIC-HS/s2" in lines(read(root)) and "holds no clips" in lines(read(root))


@pytest.mark.parametrize("moved", ["the same clips", "some of them"])
def test_micro_beside_micro(root, moved):
    subject = root / SMIC / "s1"
    if moved == "the same clips":
        shutil.copytree(subject / "micro", subject / "Micro")
    else:
        (subject / "Micro").mkdir()
        (subject / "micro/negative").rename(subject / "Micro/negative")
    reading = read(root)
    assert {*reading.clips.clip_id} == ALL
    twice = lines(reading).count("there is another folder of this clip")
    assert twice == (2 if moved == "the same clips" else 0)


INSIDE = {  # where a copy of SAMM goes: in whatever way it is meant, CASME II does not notice
    "beside its frames": "CASME2/SAMM", "among its subjects": f"{CASME2}/SAMM",
    "in a subject": f"{CASME2}/sub01/SAMM", "its subjects among the others": CASME2}


@pytest.mark.parametrize("case", INSIDE)
def test_a_samm_folder_inside_casme2_costs_only_itself(root, case):
    if case == "its subjects among the others":
        for subject in (root / SAMM).iterdir(): subject.rename(root / CASME2 / subject.name)
    else: (root / "SAMM").rename(root / INSIDE[case])
    reading = read(root)
    assert {*reading.clips.clip_id} >= ALL - of("SAMM")
    assert {*reading.clips.clip_id} == ALL or "SAMM" in {*reading.problems.clip_id}


# -- 5: the same frames twice -----------------------------------------------------------------

def test_the_same_frames_under_two_subjects_are_found(root):
    shutil.rmtree(root / CASME2 / "sub02/EP01_11f")
    shutil.copytree(root / CASME2 / "sub01/EP02_01f", root / CASME2 / "sub02/EP01_11f")
    report = check_root(root)
    named = report.reading.left_out
    assert {*named.clip_id} == {"CASME II/sub01/EP02_01f", "CASME II/sub02/EP01_11f"}
    assert named.problem.str.contains("the same frames as").all() and not report.ok


def test_the_same_frames_under_one_subject_are_noted(root):
    shutil.rmtree(root / CASME2 / "sub01/EP19_05f")
    shutil.copytree(root / CASME2 / "sub01/EP02_01f", root / CASME2 / "sub01/EP19_05f")
    reading = check_root(root).reading
    assert reading.left_out.empty and lines(reading).count("the same frames as") == 2


def test_prepare_leaves_out_what_two_subjects_share(tmp_path):
    from test_prepare import quiet, write_clips

    clips = write_clips(tmp_path)
    clips.at[2, "frames"] = clips.frames[0]
    made = quiet(clips, tmp_path / "cache")
    assert list(made.clips.clip_id) == [clips.clip_id[1], clips.clip_id[3]]
    from mfdan.data.prepared import read_problems
    said = read_problems(made.folder)
    assert {*said.clip_id} == {clips.clip_id[0], clips.clip_id[2]}
    assert said.problem.str.contains("the same frames as").all()


# -- 6: prepared folders ----------------------------------------------------------------------

@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save_prepared(planted(4, 6, size=28), tmp_path_factory.mktemp("prepared") / "a").folder


def edit(name, change):
    "Change an array in place; its shape and type stay."
    def plant(folder):
        array = np.load(folder / f"{name}.npy")
        np.save(folder / f"{name}.npy", change(array))
    return plant


def table(change):
    def plant(folder):
        clips = pd.read_csv(folder / "clips.csv", dtype=str, keep_default_na=False)
        change(clips).to_csv(folder / "clips.csv", index=False)
    return plant


def says(change):
    def plant(folder):
        meta = json.loads((folder / "meta.json").read_text())
        change(meta)
        (folder / "meta.json").write_text(json.dumps(meta))
    return plant


def swapped(array):
    array = array.copy()
    array[[1, 5]] = array[[5, 1]]
    return array


def lead_outside(meta): meta["arrays"]["../a/flow"] = meta["arrays"]["flow"]


SPOILT = {
    "zeroed faces": edit("magnified", np.zeros_like),
    "permuted factors": edit("magnified", lambda a: a[:, ::-1]),
    "reversed rows": edit("flow", lambda a: a[::-1]),
    "two rows swapped": edit("flow", swapped),
    "u for v": edit("flow", lambda a: a[:, [1, 0, 2]]),
    "mirrored": edit("magnified", lambda a: a[..., ::-1]),
    "one grey value more": edit("magnified", lambda a: a + 1),
    "an edited emotion": table(lambda t: t.assign(emotion=["happiness", *t.emotion[1:]])),
    "an edited subject": table(lambda t: t.assign(subject=[t.subject.iloc[-1], *t.subject[1:]])),
    "rows of the table reversed": table(lambda t: t[::-1]),
    "an edited matrix": table(lambda t: t.assign(a02="3.0")),
    "other factors": says(lambda m: m.update(factors=m["factors"][::-1])),
    "another key": says(lambda m: m.update(key="0")),
    "another size": says(lambda m: m.update(size=56)),
    "an array's name that leads outside": says(lead_outside),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_folder_is_refused_when_it_is_loaded(whole, tmp_path, case):
    folder = shutil.copytree(whole, tmp_path / "a")
    SPOILT[case](folder)
    with pytest.raises(ValueError, match="a/?.*again") as error: load_prepared(folder)
    one_line(error.value)


def test_one_bit_anywhere_is_found_by_the_whole_check(whole, tmp_path):
    from mfdan.data.prepared import check_prepared

    folder, random = shutil.copytree(whole, tmp_path / "a"), np.random.default_rng(0)
    assert check_prepared(folder) == []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        for place in random.integers(len(data), size=20):
            broken = bytearray(data)
            broken[place] ^= 1 << int(random.integers(7))
            file.write_bytes(broken)
            found = check_prepared(folder)
            same = file.name == "meta.json" and json.loads(data) == loaded(broken)  # white space
            assert same or found, (file.name, place)
            for line in found: one_line(line)
        file.write_bytes(data)


def loaded(data: bytes):
    try:
        return json.loads(data)
    except ValueError:
        return None


def test_a_folder_without_digests_loads_and_says_so(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "a")
    says(lambda meta: meta.pop("digests", None))(folder)
    with pytest.warns(UserWarning, match="cannot be checked; delete it and prepare again"):
        made = load_prepared(folder)
    assert made.key == load_prepared(whole).key


def test_digests_are_no_part_of_a_key(whole):
    made = planted(4, 6, size=28)
    assert load_prepared(whole).key_of(("flow",)) == made.key_of(("flow",))


# -- 7: the audit of a fold -------------------------------------------------------------------

@pytest.fixture(scope="module")
def fold():
    data, run = planted(4, 6, size=28), Run("linear", "composite", LinearConfig(), FitConfig())
    fold = plan(data, run)[0]
    return data, fold, run, train_fold(data, fold, run.model, run.train)


def last(field, value):
    def plant(record): record[field] = [*record[field][:-1], value(record[field][-1])]
    return plant


def scored(change):
    def plant(record):
        record["prob"] = record["curve"][-1] = change(np.array(record["prob"])).tolist()
    return plant


def next_of(name, classes=("negative", "positive", "surprise")):
    return classes[(classes.index(name) + 1) % 3]


def again(record):
    for field in ("clip_ids", "true", "pred", "prob"): record[field] += record[field][-1:]
    record["curve"] = [record["prob"]]


def both_at_once(record):
    for field in ("true", "pred"): last(field, next_of)(record)


LIES = {
    "another true class": (last("true", next_of), "true classes are not the labels of"),
    "another prediction": (last("pred", next_of), "not the most probable class is predicted of"),
    "the answer with it": (both_at_once, "true classes are not the labels of"),
    "an unknown prediction": (last("pred", lambda _: "joy"), "it predicts joy, which is no class"),
    "an unknown truth": (last("true", lambda _: "joy"), "true classes are not the labels of"),
    "not a number": (scored(lambda p: p * np.nan), "its probabilities are none"),
    "infinite": (scored(lambda p: p / 0), "its probabilities are none"),
    "negative": (scored(lambda p: 2 / 3 - p), "its probabilities are none"),
    "twice as probable": (scored(lambda p: 2 * p), "its probabilities are none"),
    "a clip twice": (again, "stands there twice"),
    "a training clip twice": (lambda r: r["train_ids"].append(r["train_ids"][0]),
                              "stands there twice"),
    "an unknown clip": (last("clip_ids", lambda _: "SAMM/1/2"), "not in the clip table"),
    "an unknown training clip": (last("train_ids", lambda _: "SAMM/1/2"), "not in the clip table"),
    "an unknown clip in a batch": (lambda r: r["batches"]["seen"].update({"SAMM/1/2": 1}),
                                   "not in the clip table"),
    "other classes": (lambda r: r.update(classes=["yes", "no", "maybe"]), "its classes are yes"),
    "classes in another order": (lambda r: r["classes"].reverse(), "its classes are surprise"),
}


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize("case", LIES)
def test_a_record_that_lies_about_its_outcome_is_found(fold, case):
    data, of_fold, run, record = fold
    plant, words = LIES[case]
    assert audit_fold(data, of_fold, run, record, {}) == []
    lie = json.loads(json.dumps(record))
    plant(lie)
    found = audit_fold(data, of_fold, run, lie, {})
    assert words in one_line("; ".join(found))


# -- 8: what the magnifier and the flow refuse ------------------------------------------------

PAIR = torch.randint(0, 256, (2, 2, 3, 32, 40), generator=torch.Generator().manual_seed(0))
PAIR = PAIR.to(torch.uint8)
REFUSED = {
    "not a number": (lambda a: a * torch.nan, 2), "infinite": (lambda a: a / 0.0, 2),
    "in 0..1": (lambda a: a / 255, 2), "in 0..65535": (lambda a: a.float() * 257, 2),
    "in -1..1": (lambda a: a / 127.5 - 1, 2), "booleans": (lambda a: a > 99, 2),
    "complex": (lambda a: a.to(torch.complex64), 2), "an array": (lambda a: a.numpy(), 2),
    "no pair": (lambda a: a[:0], 2), "channels last": (lambda a: a.permute(0, 2, 3, 1), 2),
    "RGBA": (lambda a: torch.cat([a, a[:, :1]], 1), 2),
    "factor not a number": (lambda a: a, float("nan")), "factor inf": (lambda a: a, float("inf")),
    "factor -inf": (lambda a: a, -float("inf")), "a factor beyond all": (lambda a: a, 3e38),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_magnifier_refuses(case):
    spoil, factor = REFUSED[case]
    for way in (magnify, magnify_linear):
        if case == "a factor beyond all" and way is magnify_linear: continue  # it is clipped
        for pair in ((PAIR[0], spoil(PAIR[1])), (spoil(PAIR[0]), spoil(PAIR[1]))):
            with pytest.raises(ValueError) as error: way(*pair, factor)
            one_line(error.value)


FRAMES = np.random.default_rng(0).integers(0, 256, (4, 20, 30, 4), np.uint8)
NO_FRAMES = {
    "RGBA": FRAMES[0], "RGBA as floats": FRAMES[0].astype(float),
    "a batch, channels last": FRAMES[..., :3], "a batch of RGBA": FRAMES,
    "a tensor, channels last": torch.tensor(FRAMES[0, ..., :3]),
    "grey frames of width 3": FRAMES[..., :3, 0], "grey frames of width 4": FRAMES[..., :4, 0],
    "a batch, channels first": FRAMES.transpose(0, 3, 1, 2), "one row": FRAMES[0, 0, :, 0],
    "a grey frame of width 3": FRAMES[0, :, :3, 0], "two rows": FRAMES[0, :2, :, 0],
    "booleans": FRAMES[..., 0] > 99, "complex": FRAMES[..., 0].astype(complex),
    "text": FRAMES[..., 0].astype(str), "nothing": FRAMES[:0, ..., 0],
}


@pytest.mark.parametrize("backend", ["opencv", "torch"])
@pytest.mark.parametrize("case", NO_FRAMES)
def test_the_flow_refuses(case, backend):
    with pytest.raises(ValueError) as error: tvl1(NO_FRAMES[case], NO_FRAMES[case], backend)
    one_line(error.value)


# -- 9: images --------------------------------------------------------------------------------

def picture(path, **how):
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    Image.fromarray(noise).save(path, **how)
    return path


CUTS = {"much": 0.5, "a little": 0.95, "the last bytes": 0.995}


@pytest.mark.parametrize("kind", ["baseline", "progressive", "grey", "restarts"])
@pytest.mark.parametrize("keep", CUTS)
def test_a_jpeg_cut_and_ended_again_is_found_when_it_is_decoded(tmp_path, kind, keep):
    path = tmp_path / "img46.jpg"
    picture(path, progressive=kind == "progressive",
            **({"restart_marker_rows": 1} if kind == "restarts" else {}))
    if kind == "grey": Image.open(path).convert("L").save(path)
    data = path.read_bytes()
    assert read_image(path).shape == (96, 128, 3)  # a sound one passes
    path.write_bytes(data[:int(len(data) * CUTS[keep])] + b"\xff\xd9")
    with pytest.raises(ImageError, match="img46.jpg is damaged .it was cut.; unpack or copy") as e:
        read_image(path)
    one_line(e.value)


@pytest.mark.parametrize("flat", [0, 128, 255])
def test_a_flat_jpeg_is_sound(tmp_path, flat):
    Image.new("RGB", (64, 48), (flat,) * 3).save(tmp_path / "a.jpg")
    assert (read_image(tmp_path / "a.jpg") == flat).all()


OFFSETS = {"in the file's header": 10, "in its own header": 40, "nothing": 0, "one byte early": 53,
           "one byte late": 55, "in the middle": 4000, "at the end": 54 + 96 * 128 * 3,
           "far outside": 2**31 + 54}


@pytest.mark.parametrize("case", OFFSETS)
def test_a_bmp_with_a_false_offset_is_found(tmp_path, case):
    path = picture(tmp_path / "a.bmp")
    assert probe_image(path) == (128, 96)
    data = bytearray(path.read_bytes())
    data[10:14] = OFFSETS[case].to_bytes(4, "little")
    path.write_bytes(data)
    for way in (probe_image, read_image):
        with pytest.raises(ImageError, match="a.bmp") as error: way(path)
        one_line(error.value)


def test_a_palette_is_no_place_for_pixels(tmp_path):
    path = tmp_path / "a.bmp"
    Image.open(picture(tmp_path / "b.bmp")).convert("L").save(path)
    data = bytearray(path.read_bytes())
    data[10:14] = (14 + 40 + 4 * 255).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ImageError, match="its pixels begin within its header"): probe_image(path)


# -- who reads what is whole sees nothing of this ---------------------------------------------

def test_a_sound_copy_gives_no_line(root):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reading = read(root)
    assert {*reading.clips.clip_id} == ALL and reading.problems.empty


def test_members_stay_members(tmp_path):
    made = few()
    made["CASME II"].append(replace(Made(3, "EP03_01", "surprise"), onset=60, apex=62, offset=64))
    assert len(read(layouts.write_all(tmp_path, made)).clips) == 10
