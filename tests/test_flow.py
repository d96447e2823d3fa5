"""Known motion comes back, symmetries hold, both backends agree, and strain has all its terms."""
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mfdan.core.config import FlowConfig
from mfdan.pixels.flow import flow_image, resize_flow, tvl1
from mfdan.pixels.strain import strain
from mfdan.pixels.tvl1 import Scheme

SIDE, RIM = 64, 10
BACKENDS = ("opencv", "torch")
quickly = settings(max_examples=25, deadline=None, derandomize=True)
slopes = st.lists(st.floats(-0.05, 0.05), min_size=4, max_size=4)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1); cv2.setNumThreads(1)
    yield
    torch.set_num_threads(before[0]); cv2.setNumThreads(before[1])


def inner(field): return np.asarray(field)[..., RIM:-RIM, RIM:-RIM]


def affine(slopes, shift=(0, 0), shape=(SIDE, SIDE)):
    "The flow A x + t about the middle of the grid, A given as (du/dx, du/dy, dv/dx, dv/dy)."
    h, w = shape
    y, x = np.mgrid[:h, :w] - np.array([h - 1, w - 1]).reshape(2, 1, 1) / 2
    a, b, c, d = slopes
    return np.stack([a * x + b * y + shift[0], c * x + d * y + shift[1]])


def moved(flow, seed=0):
    "Onset and apex of a texture that moves by `flow`: what is at x is then at x + flow."
    h, w = flow.shape[1:]
    rng = np.random.default_rng(seed)
    coarse, fine = (cv2.GaussianBlur(rng.normal(size=(h, w)), (0, 0), s) for s in (4, 1.5))
    apex = 128 + 40 * coarse / coarse.std() + 15 * fine / fine.std()
    y, x = np.mgrid[:h, :w]
    onset = cv2.remap(apex.astype(np.float32), (x + flow[0]).astype(np.float32),
                      (y + flow[1]).astype(np.float32), cv2.INTER_CUBIC,
                      borderMode=cv2.BORDER_REFLECT)
    return tuple(np.clip(f, 0, 255).round().astype(np.uint8) for f in (onset, apex))


def error(flow, true):
    "Mean endpoint error away from the rim."
    return np.linalg.norm(inner(flow - true), axis=0).mean()


# -- strain -----------------------------------------------------------------------------------

def strain_by_hand(flow):
    "Eq. 3, pixel by pixel, from the tensor of Eq. 2."
    _, h, w = flow.shape
    out = np.full((h, w), np.nan)
    for y in range(1, h - 1):
        for x in range(1, w - 1):
            ux, vx = ((flow[i, y, x + 1] - flow[i, y, x - 1]) / 2 for i in (0, 1))
            uy, vy = ((flow[i, y + 1, x] - flow[i, y - 1, x]) / 2 for i in (0, 1))
            xx, yy, xy, yx = ux, vy, (uy + vx) / 2, (vx + uy) / 2
            out[y, x] = (xx**2 + yy**2 + xy**2 + yx**2) ** 0.5
    return out[1:-1, 1:-1]


@given(st.integers(0, 10**6), st.tuples(st.integers(3, 9), st.integers(3, 9)))
@quickly
def test_strain_is_equation_3_with_all_its_terms(seed, shape):
    flow = np.random.default_rng(seed).normal(size=(2, *shape))
    np.testing.assert_allclose(strain(flow)[1:-1, 1:-1], strain_by_hand(flow), atol=1e-12)


@pytest.mark.parametrize("component, axis, share", [
    (0, "x", 1), (1, "y", 1), (0, "y", 0.5**0.5), (1, "x", 0.5**0.5)])
def test_each_derivative_alone_enters_the_strain(component, axis, share):
    flow = np.zeros((2, 8, 9))
    flow[component] = 0.03 * (np.arange(9) if axis == "x" else np.arange(8)[:, None])
    np.testing.assert_allclose(strain(flow), 0.03 * share, atol=1e-12)


@given(slopes, st.floats(-9, 9), st.floats(-9, 9))
@quickly
def test_strain_of_an_affine_motion(slopes, u, v):
    a, b, c, d = slopes
    expected = (a * a + d * d + (b + c) ** 2 / 2) ** 0.5
    np.testing.assert_allclose(strain(affine(slopes, (u, v), (9, 11))), expected, atol=1e-9)


@given(st.integers(0, 10**6), st.floats(-0.2, 0.2), st.floats(-5, 5))
@quickly
def test_strain_does_not_see_translation_nor_infinitesimal_rotation(seed, turn, shift):
    flow = np.random.default_rng(seed).normal(size=(2, 12, 10))
    rigid = affine((0, -turn, turn, 0), (shift, -shift), (12, 10))
    np.testing.assert_allclose(strain(flow + rigid), strain(flow), atol=1e-9)
    np.testing.assert_allclose(strain(rigid), 0, atol=1e-9)


SYMMETRIES = {  # of a field of vectors: how the grid turns, and which vectors go with it
    "left and right": lambda f: f[..., ::-1] * np.array([-1, 1]).reshape(2, 1, 1),
    "up and down": lambda f: f[..., ::-1, :] * np.array([1, -1]).reshape(2, 1, 1),
    "half a turn": lambda f: -f[..., ::-1, ::-1],
    "x and y": lambda f: np.swapaxes(f[::-1], -1, -2),
}
PLAIN = {  # the same, of a picture
    "left and right": lambda f: f[..., ::-1], "up and down": lambda f: f[..., ::-1, :],
    "half a turn": lambda f: f[..., ::-1, ::-1], "x and y": lambda f: np.swapaxes(f, -1, -2),
}


@pytest.mark.parametrize("name", SYMMETRIES)
def test_strain_of_a_mirrored_motion_is_mirrored(name):
    flow = np.random.default_rng(1).normal(size=(2, 9, 13))
    np.testing.assert_allclose(strain(SYMMETRIES[name](flow)), PLAIN[name](strain(flow)),
                               atol=1e-12)


@given(st.floats(-3, 3))
@quickly
def test_strain_grows_with_the_motion(factor):
    flow = np.random.default_rng(2).normal(size=(2, 6, 7))
    np.testing.assert_allclose(strain(factor * flow), abs(factor) * strain(flow), atol=1e-12)


def test_strain_of_arrays_tensors_and_batches_is_one():
    flow = np.random.default_rng(3).normal(size=(4, 2, 6, 7))
    for made in (strain(flow), strain(torch.tensor(flow)).numpy()):
        np.testing.assert_allclose(made, np.stack([strain(f) for f in flow]), atol=1e-12)


# -- resize -----------------------------------------------------------------------------------

@given(slopes, st.sampled_from([(48, 48), (48, 96), (96, 24)]), st.floats(-4, 4))
@quickly
def test_an_affine_motion_stays_affine_in_the_new_pixels(slopes, shape, shift):
    h, w = shape
    a, b, c, d = slopes
    sx, sy = 24 / w, 24 / h
    made = resize_flow(affine(slopes, (shift, shift), shape), 24)
    as_it_should = affine((a, b * sx / sy, c * sy / sx, d), (shift * sx, shift * sy), (24, 24))
    np.testing.assert_allclose(made, as_it_should, atol=1e-4)


@pytest.mark.parametrize("shape", [(40, 56), (33, 47), (20, 24)])
@pytest.mark.parametrize("name", ["left and right", "up and down", "half a turn", "x and y"])
def test_resize_commutes_with_mirrors(shape, name):
    flow = np.random.default_rng(4).normal(size=(2, *shape))
    np.testing.assert_allclose(resize_flow(SYMMETRIES[name](flow), 24),
                               SYMMETRIES[name](resize_flow(flow, 24)), atol=1e-5)


@given(st.integers(7, 60), st.integers(7, 60), st.integers(1, 30))
@quickly
def test_resize_keeps_a_translation_and_averages_by_area(h, w, size):
    made = resize_flow(np.stack([np.full((h, w), 3.0), np.full((h, w), -2.0)]), size)
    assert made.shape == (2, size, size) and made.dtype == np.float32
    np.testing.assert_allclose(made[0], 3 * size / w, rtol=1e-5)
    np.testing.assert_allclose(made[1], -2 * size / h, rtol=1e-5)
    if size <= min(h, w):
        flow = np.random.default_rng(h).normal(size=(2, h, w))
        mean = resize_flow(flow, size).mean((1, 2)) / (size / w, size / h)
        np.testing.assert_allclose(mean, flow.mean((1, 2)), atol=1e-5)


def test_the_flow_image_is_flow_resized_then_strained():
    onset, apex = moved(affine((0.02, 0, 0, -0.01), (0.5, 0)))
    made = flow_image(onset, apex, 32, FlowConfig(setting="fast"))
    flow = resize_flow(tvl1(onset, apex, setting="fast"), 32)
    np.testing.assert_array_equal(made, np.concatenate([flow, strain(flow)[None]]))
    assert abs(np.median(made[0]) - 0.25) < 0.05  # half a pixel of 64 is a quarter of 32


# -- known motion -----------------------------------------------------------------------------

@given(slopes, st.floats(-1.5, 1.5), st.floats(-1.5, 1.5), st.integers(0, 99))
@settings(max_examples=12, deadline=None, derandomize=True)
def test_random_affine_motion_is_recovered(slopes, u, v, seed):
    true = affine([s * 0.6 for s in slopes], (u, v))
    frames = moved(true, seed)
    for backend in BACKENDS:
        found = error(tvl1(*frames, backend, "fast"), true)
        assert found < 0.12, (backend, found)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name, slopes, expected", [
    ("dilation", (0.03, 0, 0, 0.03), 0.03 * 2**0.5), ("shear", (0, 0.05, 0, 0), 0.05 / 2**0.5),
    ("shear of v", (0, 0, 0.05, 0), 0.05 / 2**0.5), ("rotation", (0, -0.04, 0.04, 0), 0)])
def test_the_strain_of_an_estimated_motion(backend, name, slopes, expected):
    true = affine(slopes, shape=(96, 96))
    found = tvl1(*moved(true), backend)
    assert error(found, true) < 0.1
    smooth = np.stack([cv2.GaussianBlur(f, (0, 0), 4) for f in found])
    assert abs(np.median(inner(strain(smooth))) - expected) < 0.012


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shift", [(0.5, 0), (0, -0.25), (2, 1), (-3.5, 2.5)])
def test_a_translation_is_recovered_with_its_sign(backend, shift):
    true = affine((0, 0, 0, 0), shift)
    found = tvl1(*moved(true), backend)
    np.testing.assert_allclose(np.median(inner(found), (1, 2)), shift, atol=0.1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SYMMETRIES)
def test_flow_of_mirrored_frames_is_mirrored(backend, name):
    true = affine((0.02, -0.03, 0.01, 0.02), (0.7, -0.4))
    frames = moved(true, seed=5)
    straight = tvl1(*frames, backend)
    turned = tvl1(*(PLAIN[name](f) for f in frames), backend)
    difference = inner(turned - SYMMETRIES[name](straight))
    assert np.abs(difference).mean() < 0.02, np.abs(difference).mean()


# -- nothing moves ----------------------------------------------------------------------------

STILL = {
    "noise": np.random.default_rng(0).integers(0, 256, (40, 52)), "black": np.zeros((40, 52)),
    "white": np.full((40, 52), 255), "an edge": np.repeat([[0, 255]], 26, 1).repeat(40, 0),
    "a checkerboard": np.indices((40, 52)).sum(0) % 2 * 255, "one pixel": np.eye(40, 52) * 0,
}
STILL["one pixel"][20, 26] = 255


@pytest.mark.parametrize("name", STILL)
@pytest.mark.parametrize("setting", ["standard", "fast", Scheme(border="replicate")])
def test_identical_frames_have_exactly_no_flow(name, setting):
    frame = STILL[name].astype(np.uint8)
    for kind in (frame, frame.astype(np.uint16) * 257, frame.astype(np.float32)):
        backends = BACKENDS if isinstance(setting, str) else ("torch",)
        for backend in backends:
            assert (tvl1(kind, kind, backend, setting) == 0).all(), (backend, kind.dtype)
        batch = np.stack([kind, kind])
        assert (tvl1(batch, batch, "torch", setting, batched=True) == 0).all()


@pytest.mark.parametrize("one", STILL)
def test_frames_that_have_nothing_in_common_give_numbers(one):
    for other in STILL.values():
        pair = (STILL[one].astype(np.uint8), other.astype(np.uint8))
        for backend in BACKENDS:
            assert np.isfinite(tvl1(*pair, backend, "fast")).all()


# -- one algorithm, two backends --------------------------------------------------------------

@given(slopes, st.integers(0, 99), st.sampled_from([(64, 64), (61, 83), (90, 50)]),
       st.sampled_from(["standard", "fast"]))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_torch_is_opencv_with_the_zero_border(slopes, seed, shape, setting):
    true = affine(slopes, (0.6, -0.8), shape)
    frames = moved(true, seed)
    theirs, ours = (tvl1(*frames, backend, setting) for backend in BACKENDS)
    assert np.abs(inner(ours - theirs)).mean() < 0.01
    assert error(ours, true) < 1.02 * error(theirs, true) + 1e-3


@pytest.mark.parametrize("scheme", [
    Scheme(epsilon=0, inner=7, outer=2, scales=1), Scheme(epsilon=0, inner=5, outer=2, scales=2),
    Scheme(epsilon=0, inner=9, outer=1, scales=1, median=1),
    Scheme(epsilon=0, inner=6, outer=2, scales=1, warps=1, tau=0.1, lam=0.3, theta=0.2)])
def test_for_a_fixed_number_of_iterations_they_agree_to_rounding(scheme):
    frames = moved(affine((0.02, 0.01, 0, -0.02), (0.5, 0.2), (53, 71)), seed=7)
    theirs, ours = (tvl1(*frames, backend, scheme) for backend in BACKENDS)
    assert np.abs(ours - theirs).mean() < 2e-4 and np.abs(inner(ours - theirs)).max() < 5e-3


def batch(n=5, shape=(48, 56)):
    "Pairs that need very different numbers of iterations, one of them none."
    pairs = [moved(affine((0.01 * k, 0, 0.02, 0), (0.5 * k, 0), shape), seed=k) for k in range(n)]
    onset, apex = (np.stack(f) for f in zip(*pairs))
    onset[2] = apex[2]
    return onset, apex


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_is_its_pairs(backend):
    onset, apex = batch()
    one_by_one = np.stack([tvl1(*pair, backend, "fast") for pair in zip(onset, apex)])
    np.testing.assert_array_equal(tvl1(onset, apex, backend, "fast"), one_by_one)
    order = np.random.default_rng(0).permutation(len(onset))
    np.testing.assert_array_equal(tvl1(onset[order], apex[order], backend, "fast"),
                                  one_by_one[order])


@pytest.mark.parametrize("setting", ["fast", Scheme(border="replicate", warps=2)])
def test_all_at_once_is_one_by_one(setting):
    onset, apex = batch()
    singly, together = (tvl1(onset, apex, "torch", setting, batched=b) for b in (False, True))
    assert np.abs(inner(singly - together)).mean() < 3e-3
    assert (together[2] == 0).all()


@pytest.mark.parametrize("arch", [75, 80, 90, 100])  # from Turing to Blackwell
def test_the_gpu_kernels_compile_where_there_is_no_gpu(arch):
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mfdan.pixels import flow_gpu

    scalars = {"h": "i32", "w": "i32", "bound": "fp32", "theta": "fp32", "rate": "fp32"}
    for kernel in (flow_gpu.step_flow, flow_gpu.step_dual, flow_gpu.filter_planes):
        *names, last = kernel.arg_names
        types = {name: scalars.get(name, "*fp32") for name in names} | {last: "constexpr"}
        source = ASTSource(kernel, types, {(len(names),): flow_gpu.BLOCK})
        made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": 4})
        assert f".target sm_{arch}" in made.asm["ptx"]
        assert ".local" not in made.asm["ptx"]  # no array that registers cannot hold


def test_kernels_without_triton_are_refused_in_one_line(monkeypatch):
    monkeypatch.setattr("mfdan.pixels.flow.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="Triton, which comes with torch for CUDA on Linux"):
        tvl1(*moved(affine((0, 0, 0, 0))), "torch", fuse=True)


@pytest.mark.parametrize("shift", [(2.5, 0), (-2.5, 0), (0, 2.5), (0, -2.5)])
def test_replication_is_nearer_to_the_truth_at_the_rim_than_zeros(shift):
    true = affine((0, 0, 0, 0), shift)
    frames = moved(true)
    rim = np.ones((SIDE, SIDE), bool)
    rim[4:-4, 4:-4] = False
    zero, replicate = (np.linalg.norm(tvl1(*frames, "torch", Scheme(border=b)) - true, axis=0)[
        rim].mean() for b in ("zero", "replicate"))
    assert replicate < 0.85 * zero, (replicate, zero)


def test_replication_stops_earlier_than_the_zero_border():
    frames, steps = moved(affine((0, 0, 0, 0), (2.5, 1.5))), {}
    for border in ("zero", "replicate"):
        trace = []
        tvl1(*frames, "torch", Scheme(border=border), trace=trace)
        steps[border] = sum(n for *_, n, _ in trace)
    assert steps["replicate"] < steps["zero"], steps


# -- frames in --------------------------------------------------------------------------------

@pytest.mark.parametrize("backend", BACKENDS)
def test_grey_colour_and_sixteen_bits_are_the_same_frames(backend):
    frames = moved(affine((0.02, 0, 0, 0), (0.6, 0)))
    eight = tvl1(*frames, backend, "fast")
    for kind in (lambda f: f.astype(np.uint16) * 257, lambda f: f.astype(np.float64),
                 lambda f: np.stack([f] * 3, -1), lambda f: np.stack([f] * 3, -1).astype(float)):
        assert np.abs(tvl1(*map(kind, frames), backend, "fast") - eight).mean() < 2e-3


@pytest.mark.parametrize("shape", [(16, 16), (17, 40), (33, 16)])
def test_small_and_odd_frames_agree_too(shape):
    frames = moved(affine((0, 0, 0, 0), (0.4, 0.2), shape))
    theirs, ours = (tvl1(*frames, backend) for backend in BACKENDS)
    assert ours.shape == (2, *shape) and np.abs(ours - theirs).mean() < 0.01


@pytest.mark.parametrize("spoil, says", [
    (lambda f: f[:-1], "crop both with the one matrix"), (lambda f: f / 255.0, "multiply by 255"),
    (lambda f: np.where(f > 200, np.nan, f), "nan"), (lambda f: f * 2.0, "expected 0 to 255")])
def test_frames_that_cannot_be_compared_are_refused(spoil, says):
    onset, apex = moved(affine((0, 0, 0, 0)))
    for backend in BACKENDS:
        with pytest.raises(ValueError, match=says): tvl1(onset, spoil(apex), backend)
