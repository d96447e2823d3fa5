"""A root with every database and a hundred thousand frames is checked within a minute."""
import time

import layouts
import more_layouts as more
import numpy as np
import pytest
from PIL import Image

from mfdan.data.check import check_root
from mfdan.data.images import read_image
from mfdan.data.root import read_root
from mfdan.data.videos import read_videos

FRAMES = 100_000


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    root = tmp_path_factory.mktemp("many")
    layouts.write_all(root)
    more.write_more(root)
    for folder in ("CASME_sq", "SAMMLV"):  # again, with longer videos
        (root / folder).rename(root.parent / f"short-{folder}")
    more.write_casme_sq(root, length=300)
    more.write_samm_long(root, length=300)
    return root


def seconds(work) -> float:
    "Of one processor: the machine may be busy."
    start = time.process_time()
    work()
    return time.process_time() - start


def a_frame(folder, size):
    "The time that one frame takes to open, the mean over a few of one size."
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    smooth = Image.fromarray(noise).resize((size[0] // 8, size[1] // 8)).resize(size)
    files = [folder / f"{size[0]}-{n}.jpg" for n in range(40)]
    for file in files: smooth.save(file)
    return seconds(lambda: [read_image(file) for file in files]) / len(files)


@pytest.mark.slow
def test_a_hundred_thousand_frames_within_a_minute(many, tmp_path, capsys):
    count = sum(path.suffix in (".jpg", ".bmp", ".png") for path in many.rglob("*"))
    start = time.perf_counter()
    report = check_root(many)
    checked = time.perf_counter() - start
    reading = seconds(lambda: (read_root(many), read_videos(many)))
    tiny, real = (count * a_frame(tmp_path, size) for size in ((32, 24), (640, 480)))
    with capsys.disabled():
        print(f"\n{count} frames of {len(report.databases)} databases with clips and "
              f"{report.videos.videos.database.nunique()} with long videos: checked in "
              f"{checked:.1f} s; read in {reading:.1f} s of one processor; opening every frame "
              f"would take {real:.0f} s at 640 x 480 pixels ({real / reading:.0f} times as long), "
              f"and {tiny:.0f} s at 32 x 24 ({tiny / reading:.0f} times)")
    assert count >= FRAMES and checked < 60
    assert real / reading >= 20
