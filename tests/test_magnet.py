"""The magnifier: identities, the public weights, its training with planted faults, its scenes."""
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mfdan.bench import magnet_train
from mfdan.bench.magnet_eval import texture_pairs
from mfdan.bench.magnet_train import MagnetTrainConfig, ship_weights, train_magnet
from mfdan.bench.scenes import SceneConfig, draw_field, draw_quadruplet, origin, pixel_grid
from mfdan.bench.textures import make_bank
from mfdan.core import files
from mfdan.core.files import asset
from mfdan.pixels.magnet import (
    MagNet,
    from_port,
    load_magnet,
    magnify,
    magnify_bank,
    magnify_linear,
    port_key,
)

SHARED = Path(__file__).parents[2] / "shared" / "magnet"


@pytest.fixture(scope="module")
def public():
    path = SHARED / "magnet_pytorch_port.pth"
    if not path.exists(): pytest.skip("the public weights are not beside this checkout")
    return path


@pytest.fixture(scope="module")
def pair():
    generator = torch.Generator().manual_seed(0)
    onset = torch.randint(0, 256, (2, 3, 41, 54), dtype=torch.uint8, generator=generator)
    return onset, onset.roll(1, 3)


# --- using it


@settings(max_examples=12, deadline=None)
@given(height=st.integers(1, 37), width=st.integers(1, 37), factor=st.sampled_from([0, 1, 2, 5.5]))
def test_any_size_any_factor(height, width, factor):
    onset = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
    apex = 255 - onset
    output = magnify(onset, apex, factor)
    assert output.shape == onset.shape and output.dtype == torch.uint8
    if factor in (0, 1): assert torch.equal(output, (onset, apex)[factor])


@pytest.mark.parametrize("kind", [magnify, magnify_linear])
def test_the_ends_of_the_scale_are_the_frames(kind, pair):
    assert torch.equal(kind(*pair, 0), pair[0]) and torch.equal(kind(*pair, 1), pair[1])


def test_equal_frames_stay_to_the_bit(pair):
    bank = magnify_bank(pair[0], pair[0], (0, 1, 2, 3, 4, 5, 6, 40))
    assert torch.equal(bank, pair[0][:, None].expand_as(bank))


def test_a_bank_is_its_factors_and_a_batch_its_pairs(pair):
    bank = magnify_bank(*pair, (4, 1, 2, 4))
    assert torch.equal(bank[:, 0], bank[:, 3]) and torch.equal(bank[:, 1], pair[1])
    assert torch.equal(bank[:, 2], magnify(*pair, 2))
    alone = magnify(pair[0][:1], pair[1][:1], 4)
    assert (bank[:1, 0].int() - alone.int()).abs().max() <= 1  # one rounding


def test_a_pair_is_encoded_once(pair, monkeypatch):
    net, calls = load_magnet(), []
    net.encoder.register_forward_hook(lambda *_: calls.append("encoder"))
    net.decoder.register_forward_hook(lambda *_: calls.append("decoder"))
    magnify_bank(*pair, (1, 2, 3, 4, 5, 6), net)
    assert calls == ["encoder", *["decoder"] * 6]  # five factors and the ground


@pytest.mark.parametrize("wrong", [
    lambda a, b: (a[0], b[0]), lambda a, b: (a, b[:1]), lambda a, b: (a[:, :1], b[:, :1])])
def test_what_is_no_batch_of_pairs_is_refused(wrong, pair):
    with pytest.raises(ValueError, match=r"\[b 3 h w\] of one shape"): magnify(*wrong(*pair), 2)


# --- the public weights


def test_the_port_is_met(public):
    kept = np.load(SHARED / "reference.npz", allow_pickle=False)
    onset, apex = (torch.from_numpy(kept[name])[None] for name in ("onset", "apex"))
    port = load_magnet(public)
    for alpha in (2, 5, 10):
        gap = port(onset, apex, float(alpha))[0] - torch.from_numpy(kept[f"alpha_{alpha}"])
        assert gap.abs().max() < 1e-4
    wrong = MagNet(neutral=1.0, residual=False).eval()  # the other way of counting is told apart
    wrong.load_state_dict(port.state_dict())
    with torch.no_grad():
        assert (wrong(onset, apex, 2.0)[0] - torch.from_numpy(kept["alpha_2"])).abs().max() > 1e-2


def test_every_public_tensor_has_its_place(public):
    theirs = torch.load(public, weights_only=True, map_location="cpu")
    assert {port_key(key) for key in MagNet().state_dict()} == set(theirs)
    wrapped = from_port({f"module.{key}": value for key, value in theirs.items()})
    assert all(torch.equal(wrapped[key], theirs[port_key(key)]) for key in wrapped)
    for spoil in ({k: v for k, v in theirs.items() if "h_conv" not in k}, theirs | {"bias": 0}):
        with pytest.raises(ValueError, match="not the public MagNet layout"): from_port(spoil)


# --- our weights


def test_our_weights_are_small_and_their_page_is_honest():
    path, page = asset("magnet.safetensors"), json.loads(asset("magnet.json").read_text())
    assert path.stat().st_size < 4e6
    assert {"settings", "steps", "commit", "losses", "measured", "pictures"} <= set(page)
    assert sum(p.numel() for p in load_magnet().parameters()) == 877_968
    error = {(row["magnifier"], row["scene"], row["factor"]): row["error"]
             for row in page["measured"]}
    told = [key for who, *key in error if who == "truth" and error["truth", *key] <= 0.1]
    assert {scene for scene, _ in told} == {"texture", "face"}  # where the measure can tell
    assert all(error["ours", *key] <= 0.25 for key in told)
    assert page["hallucinated_px"]["ours"] <= 0.1


@pytest.mark.parametrize("motion", [0.5, 1.0])
def test_further_is_nearer_to_the_truth_than_the_apex_or_a_straight_line(motion):
    known = texture_pairs(motion, count=6, size=64)

    def miss(output, factor):
        return (output.float() - known.moved[factor].float()).abs().mean((1, 2, 3))

    for factor in (2, 4, 6):
        ours = miss(magnify(known.onset, known.apex, factor), factor)
        assert (ours < miss(known.apex, factor)).all()
        linear = miss(magnify_linear(known.onset, known.apex, factor), factor)
        if factor > 2: assert ours.mean() < linear.mean()


def test_bfloat16_changes_little(pair):
    onset, apex = (x[..., :40, :52].float() / 127.5 - 1 for x in pair)
    net = load_magnet()
    with torch.autocast("cpu", torch.bfloat16): coarse = net(onset, apex, 4.0)
    assert (coarse - net(onset, apex, 4.0)).abs().mean() < 2e-2


def test_half_precision_changes_little(pair):
    net = load_magnet()
    onset, apex = (x.float() / 127.5 - 1 for x in pair)
    onset, apex = onset[..., :40, :52], apex[..., :40, :52]
    before = net(onset, apex, 4.0)
    for weight in net.parameters(): weight *= 1 + 2e-4 * torch.randn_like(weight)  # half an ulp
    assert (net(onset, apex, 4.0) - before).abs().mean() < 1e-2


# --- training


@pytest.mark.parametrize("seed", range(12))
def test_a_field_is_the_flow_at_every_scale(seed):
    generator, motion = torch.Generator().manual_seed(seed), torch.tensor([0.2, 1.0, 3.0])
    field = draw_field(generator, 48, motion, 4 * motion, (motion > 0.5).float(), motion / 6)
    x = pixel_grid(48).expand(3, -1, -1, -1)
    for scale in (1.0, 4.0):
        p = origin(field, torch.full((3,), scale), x)
        assert (p + scale * field(p) - x).norm(dim=-1).max() < 0.1


def test_scenes_depend_on_the_seed_alone():
    bank = make_bank(3, {}, 4, 64)
    config = SceneConfig(size=32)
    one, two, three = (
        draw_quadruplet(bank, torch.Generator().manual_seed(seed), config) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two))
    assert not torch.equal(one.onset, three.onset)


def tiny(**changes):
    return MagnetTrainConfig(
        scene=SceneConfig(size=16, batch=1), steps=6, warm=2, grow=4, procedural=3, **changes)


def test_killed_and_resumed_is_the_same_to_the_bit(tmp_path):
    straight = train_magnet(tiny(), tmp_path / "a")
    for until in (2, 3, 6): resumed = train_magnet(tiny(), tmp_path / "b", until=until)
    for key, x in straight.average.items(): assert torch.equal(x, resumed.average[key])


def test_every_step_has_scenes_of_its_own(tmp_path, monkeypatch):
    seen, draw = [], magnet_train.draw_quadruplet
    monkeypatch.setattr(
        magnet_train, "draw_quadruplet", lambda *a: seen.append(draw(*a)) or seen[-1])
    train_magnet(tiny(), tmp_path / "a", until=3)
    train_magnet(tiny(seed=1), tmp_path / "b", until=1)
    first = [quad.onset.flatten()[:8].tolist() for quad in seen]
    assert len({tuple(x) for x in first}) == 4


def test_a_kill_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    train_magnet(tiny(), tmp_path, until=2)
    kept = (tmp_path / "checkpoint.safetensors").read_bytes()

    def killed(handle):
        os.ftruncate(handle, os.fstat(handle).st_size // 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt): train_magnet(tiny(), tmp_path, until=4)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == kept


def test_what_is_shipped_loads(tmp_path):
    state = train_magnet(tiny(), tmp_path)
    ship_weights(state, tmp_path)
    net = load_magnet(tmp_path / "magnet.safetensors")
    for key, x in net.named_parameters():
        torch.testing.assert_close(x, state.average[key], rtol=1e-3, atol=1e-6)
    page = json.loads((tmp_path / "magnet.json").read_text())
    assert page["steps"] == 6
    assert not any("astronaut" in name for part in page["pictures"].values() for name in part)
