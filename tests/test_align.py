"""A known turn and scale come back, each database has its rule, and an unfit face is named."""
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.data import astronaut

from mfdan.core.config import AlignConfig
from mfdan.data.images import read_image
from mfdan.pixels import align
from mfdan.pixels.align import (
    CUT,
    Crop,
    FaceCut,
    NoFace,
    TwoFaces,
    find_face,
    find_landmarks,
    fit_alignment,
    fit_crop,
    warp,
    warp_flow,
)

PORTRAIT = np.ascontiguousarray(astronaut()[:300, 80:380])  # its face is 93 pixels wide
quickly = settings(max_examples=25, deadline=None, derandomize=True)


def about(matrix): return np.vstack([matrix, [0, 0, 1]])


def placed(degrees=0.0, scale=1.0, shift=(0, 0), size=(420, 420)):
    "The portrait on a larger canvas, turned and scaled; and portrait pixel -> canvas pixel."
    matrix = cv2.getRotationMatrix2D((142, 130), degrees, scale)
    matrix[:, 2] += np.array(size) / 2 - (142, 130) + shift
    return cv2.warpAffine(PORTRAIT, matrix, size, flags=cv2.INTER_CUBIC,
                          borderMode=cv2.BORDER_REPLICATE), matrix


# -- where the face is ------------------------------------------------------------------------

@pytest.fixture(scope="module")
def straight():
    image, matrix = placed()
    return about(fit_alignment(image, "CASME II")) @ about(matrix)


@pytest.mark.parametrize("degrees, scale, shift", [
    (12, 1, (0, 0)), (-15, 1, (20, -10)), (0, 1.5, (0, 0)), (8, 0.8, (-25, 15)), (-6, 1.3, (5, 5))])
def test_a_known_turn_scale_and_shift_are_undone(straight, degrees, scale, shift):
    image, matrix = placed(degrees, scale, shift)
    found = about(fit_alignment(image, "CASME II")) @ about(matrix)
    rotation, expected = found[:2, :2], straight[:2, :2]
    size = np.sqrt(np.linalg.det(rotation) / np.linalg.det(expected))
    turn = np.degrees(np.arctan2(rotation[1, 0], rotation[0, 0])
                      - np.arctan2(expected[1, 0], expected[0, 0]))
    assert abs(size - 1) < 0.06 and abs(turn) < 1.5, (size, turn)
    corners = np.array([[100, 90, 1], [180, 90, 1], [142, 160, 1]]).T
    apart = np.linalg.norm((found @ corners - straight @ corners)[:2], axis=0)
    assert apart.max() < 0.05 * 224, apart


@pytest.mark.parametrize("degrees", [-14, 0, 9])
def test_eyes_are_level_and_every_landmark_lies_inside(degrees):
    image, _ = placed(degrees)
    matrix = fit_alignment(image, "CASME II")
    points = find_landmarks(image) @ matrix[:, :2].T + matrix[:, 2]
    left, right = points[36:42].mean(0), points[42:48].mean(0)
    assert abs(right[1] - left[1]) < 1e-6 and right[0] > left[0]
    assert points.min() > 0 and points.max() < 224
    box = np.array([points.min(0), points.max(0)])
    np.testing.assert_allclose(box.mean(0), 112, atol=1)  # the face is in the middle
    np.testing.assert_allclose(np.linalg.norm(matrix[0, :2]), np.linalg.norm(matrix[1, :2]))


@pytest.mark.parametrize("margin", [0, 0.1, 0.3])
def test_the_margin_is_what_it_says(margin):
    crop, tight = (fit_crop(PORTRAIT, "CASME II", AlignConfig(margin=m)) for m in (margin, 0))
    assert crop.width == crop.height == pytest.approx(tight.width * (1 + 2 * margin))
    points = find_landmarks(PORTRAIT) @ crop.matrix[:, :2].T + crop.matrix[:, 2]
    assert points.min() == pytest.approx(tight.width * margin, abs=1e-6)


def test_a_face_too_small_for_the_first_look_is_found_at_twice_the_size():
    image, _ = placed(scale=0.5, size=(240, 240))
    assert not align.detector()(image, 0)
    assert 30 < find_face(image).width() < 60


def test_models_are_loaded_once():
    assert align.detector() is align.detector() and align.predictor() is align.predictor()


# -- the rule of each database ----------------------------------------------------------------

@pytest.mark.parametrize("shape", [(650, 960), (421, 500), (420, 420), (501, 423)])
def test_samm_is_cut_out_of_the_middle(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    crop = fit_crop(image, "SAMM")
    top, left = ((n - 420 + 1) // 2 for n in shape)
    np.testing.assert_array_equal(warp(image, crop.to(420), 420),
                                  image[top : top + 420, left : left + 420])
    assert (crop.width, crop.height) == (420, 420)


def test_smic_is_taken_as_distributed():
    image = np.random.default_rng(0).integers(0, 256, (190, 160, 3), dtype=np.uint8)
    crop = fit_crop(image, "SMIC-HS")
    np.testing.assert_array_equal(crop.matrix, np.eye(2, 3))
    assert (crop.width, crop.height) == (160, 190)
    square = np.ascontiguousarray(image[:160])
    np.testing.assert_array_equal(warp(square, fit_alignment(square, "SMIC-HS", size=160), 160),
                                  square)
    corners = fit_alignment(image, "SMIC-HS") @ [[-0.5, 159.5], [-0.5, 189.5], [1, 1]]
    np.testing.assert_allclose(corners, [[-0.5, 223.5]] * 2)  # edge to edge


def test_no_database_but_casme_needs_a_face():
    blank = np.full((500, 500, 3), 127, np.uint8)
    for database in ("SAMM", "SMIC-HS"): fit_crop(blank, database)
    with pytest.raises(NoFace): fit_crop(blank, "CASME II")


# -- transforms -------------------------------------------------------------------------------

@given(st.floats(20, 300), st.floats(20, 300), st.integers(8, 300), st.floats(-40, 40))
@quickly
def test_a_crop_goes_edge_to_edge_at_every_size(width, height, size, shift):
    matrix = np.array([[1.0, 0, -shift], [0, 1, shift / 2]])
    made = Crop(matrix, width, height).to(size)
    first = np.array([-0.5 + shift, -0.5 - shift / 2, 1])
    last = first + (width, height, 0)
    np.testing.assert_allclose(made @ first, -0.5, atol=1e-9)
    np.testing.assert_allclose(made @ last, size - 0.5, atol=1e-9)


@pytest.mark.parametrize("dtype, high", [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
@pytest.mark.parametrize("shape", [(60, 80), (60, 80, 3)])
def test_a_whole_shift_moves_pixels_of_every_kind_unchanged(dtype, high, shape):
    image = (np.random.default_rng(0).random(shape) * high).astype(dtype)
    made = warp(image, np.array([[1.0, 0, -7], [0, 1, -9]]), (50, 40))
    np.testing.assert_array_equal(made, image[9:49, 7:57])
    assert made.dtype == dtype


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_shrinking_averages_areas(factor):
    image = np.random.default_rng(0).random((60, 60)).astype(np.float32)
    matrix = Crop(np.eye(2, 3), 60, 60).to(60 // factor)
    means = image.reshape(60 // factor, factor, 60 // factor, factor).mean((1, 3))
    np.testing.assert_allclose(warp(image, matrix, 60 // factor), means, atol=1e-5)


@given(st.floats(-180, 180), st.floats(0.7, 1.4), st.integers(0, 99))
@quickly
def test_a_flow_is_carried_as_the_difference_of_carried_points(degrees, scale, seed):
    slopes = np.random.default_rng(seed).normal(0, 0.02, (2, 3))
    matrix = cv2.getRotationMatrix2D((40, 40), degrees, scale)
    y, x = np.mgrid[:81, :81]
    start = np.stack([x, y, np.ones_like(x)])
    flow = np.einsum("ij,jhw->ihw", slopes, start - [[[40]], [[40]], [[0]]])
    made = warp_flow(flow, matrix, 81)
    for px, py in ((40, 40), (33, 45), (50, 38)):  # points of the result
        back = np.linalg.inv(about(matrix)) @ [px, py, 1]
        moved = back + [*(slopes @ (back - [40, 40, 0])), 0]
        expected = (about(matrix) @ moved)[:2] - (px, py)
        np.testing.assert_allclose(made[:, py, px], expected, atol=5e-3)


# -- bad input --------------------------------------------------------------------------------

def test_no_face_says_what_was_tried():
    noise = np.random.default_rng(0).integers(0, 256, (200, 240, 3), dtype=np.uint8)
    with pytest.raises(NoFace, match="not even at twice the size"): fit_crop(noise, "CASME II")


def test_two_equal_faces_are_refused_and_a_smaller_one_is_noted():
    with pytest.raises(TwoFaces, match="2 faces, the second (99|100)% as large"):
        fit_crop(np.hstack([PORTRAIT[:250], PORTRAIT[:250]]), "CASME II")
    canvas = np.full((640, 900, 3), 90, np.uint8)
    large = cv2.resize(PORTRAIT, None, fx=2, fy=2)
    canvas[:600, :600] = large
    alone = fit_crop(canvas, "CASME II")
    canvas[:250, 610:860] = PORTRAIT[:250, :250]
    both = fit_crop(canvas, "CASME II")
    assert alone.note == "" and "smaller face" in both.note
    np.testing.assert_array_equal(both.matrix, alone.matrix)


SIDES = {  # what is left of the portrait; its face spans columns 99 to 192, rows 87 to 178
    "left": lambda n: PORTRAIT[:, 99 + n :], "right": lambda n: PORTRAIT[:, : 192 - n],
    "top": lambda n: PORTRAIT[87 + n :], "bottom": lambda n: PORTRAIT[: 178 - n],
}


@pytest.mark.parametrize("side, lost", [("left", 24), ("right", 26), ("top", 10), ("bottom", 36)])
def test_a_face_cut_by_the_border_is_named(side, lost):
    image = np.ascontiguousarray(SIDES[side](lost))
    h, w = image.shape[:2]
    with pytest.raises(FaceCut, match=rf"reaches (\d+) pixels out of the {w}x{h} image") as error:
        fit_crop(image, "CASME II")
    assert int(str(error.value).split("reaches ")[1].split()[0]) > CUT * 87


@pytest.mark.parametrize("side, lost, noted", [
    ("right", 14, True), ("bottom", 18, True), ("right", 2, False), ("bottom", 0, False)])
def test_a_face_that_lacks_a_little_is_noted_at_most(side, lost, noted):
    note = fit_crop(np.ascontiguousarray(SIDES[side](lost)), "CASME II").note
    assert ("pixels out" in note) == noted, note


def test_a_samm_frame_smaller_than_its_crop_is_named():
    with pytest.raises(FaceCut, match="SAMM: the frame is 640x400, smaller than 420"):
        fit_crop(np.zeros((400, 640, 3), np.uint8), "SAMM")


def test_grey_and_sixteen_bits_are_aligned_as_their_eight_bits(tmp_path):
    grey = cv2.cvtColor(PORTRAIT, cv2.COLOR_RGB2GRAY)
    Image.fromarray(grey).save(tmp_path / "eight.png")
    cv2.imwrite(str(tmp_path / "sixteen.png"), grey.astype(np.uint16) * 257)
    eight, sixteen = (read_image(tmp_path / f"{n}.png") for n in ("eight", "sixteen"))
    assert eight.shape == sixteen.shape == PORTRAIT.shape
    np.testing.assert_array_equal(eight, sixteen)
    colour, without = (fit_alignment(f, "CASME II") for f in (PORTRAIT, eight))
    np.testing.assert_allclose(without, colour, atol=4)  # the same face, within 4 of 224 pixels
    np.testing.assert_array_equal(fit_alignment(sixteen, "CASME II"), without)
