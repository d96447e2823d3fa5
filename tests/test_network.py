"""The network: against the equations, under every reading at its size, and what is refused."""
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.linalg import norm

from mfdan.network import attention as flow_attention
from mfdan.network.dropkey import drop_keys
from mfdan.network.mfdan import geometry, make_block
from mfdan.network.settings import PAPER, QUICK, READINGS, MFDANConfig, reading
from mfdan.network.windows import from_windows, shift_mask, to_windows
from mfdan.training.losses import focal
from mfdan.zoo.contract import build, find_method

SETTINGS = {**{name: reading(PAPER, name) for name in READINGS},
            "separate": replace(PAPER, bias="separate", mask="independent", drop="key"),
            "M1": replace(PAPER, flow_attention=False), "quick": QUICK}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batch(config, size=1, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(2, size, 3, config.image_size, config.image_size, generator=draw)


def by_the_equations(layer, image, flow, mask):
    """Eqs. 9-15 on a whole map, a query at a time, in numpy.

    Windows lie on the map moved up and left by the shift; a query sees those keys of its window
    that are as far from it on the map itself as they are in the window.
    """
    att, size, window, shift = layer.attention, layer.size, layer.window, layer.shift
    heads, n = att.heads, window**2
    p = {name: value.detach().numpy() for name, value in att.named_parameters()}
    (wq, wk, wv), (bq, bk, bv) = (np.split(p[f"qkv.{kind}"], 3) for kind in ("weight", "bias"))
    d = len(wq) // heads
    table = p["bias.table"]
    tau = np.maximum(np.exp(p["log_tau"][:, 0, 0]), 0.01)
    image, flow = image.numpy(), flow.numpy()
    out, number = np.zeros_like(image), 0
    for b in range(len(image)):
        for top in range(0, size, window):
            for left in range(0, size, window):
                inside = [(top + i, left + j) for i in range(window) for j in range(window)]
                place = [((r + shift) % size, (c + shift) % size) for r, c in inside]
                keys = np.array([wk @ image[b, r, c] + bk for r, c in place])
                values = np.array([wv @ image[b, r, c] + bv for r, c in place])
                for i in range(n):
                    q_m, q_f = (wq @ x[b][place[i]] + bq for x in (image, flow))
                    away = np.subtract(place, place[i])  # on the map
                    seen = (away == np.subtract(inside, inside[i])).all(1)
                    near = np.subtract(inside[i], inside) + window - 1
                    for g in range(heads):
                        own = slice(g * d, (g + 1) * d)
                        bias = table[near[:, 0] * (2 * window - 1) + near[:, 1], g]
                        ks = keys[:, own]
                        cosine = ks @ q_f[own] / norm(ks, axis=1) / norm(q_f[own])
                        alive = seen & ~mask[number, g, i]
                        for scores in (ks @ q_m[own] / d**0.5 + bias, cosine / tau[g] + bias):
                            e = np.where(alive, np.exp(scores - scores.max()), 0)
                            out[b][place[i]][own] += e / e.sum() @ values[:, own]
                number += 1
    return out @ p["project.weight"].T + p["project.bias"]


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_window_attention_is_the_equations(shifted, rate, monkeypatch):
    "Four windows of 49 tokens, two clips, three heads; the mask is drawn beforehand."
    torch.manual_seed(1)
    config = replace(MFDANConfig(), dropkey=rate)
    layer = make_block(config, 24, 3, 14)[shifted].double().train()
    for parameter in layer.parameters(): torch.nn.init.normal_(parameter, std=0.3)
    image, flow = torch.randn(2, 2, 14, 14, 24, dtype=torch.double)
    mask = drop_keys((8, 3, 49, 49), rate, layer.visible)
    monkeypatch.setattr(flow_attention, "drop_keys", lambda *a, **k: mask)
    ours = layer.attend(image, flow).detach().numpy()
    want = by_the_equations(layer, image, flow, mask.numpy())
    assert layer.shift == 3 * shifted and np.abs(want).max() > 1
    assert np.abs(ours - want).max() < 1e-10


@given(st.integers(1, 3), *2 * [st.integers(1, 4)], st.integers(1, 5), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_windows_come_together_again(b, rows, columns, channels, window):
    x = torch.randn(b, rows * window, columns * window, channels)
    cut = to_windows(x, window)
    assert cut.shape == (b * rows * columns, window**2, channels)
    assert torch.equal(from_windows(cut, window, *x.shape[1:3]), x)


@given(st.integers(1, 8), st.data())
@settings(max_examples=40, deadline=None)
def test_flow_scores_do_not_depend_on_the_length_of_the_query(heads, data):
    scale = 10.0 ** data.draw(st.floats(-3, 6))
    q, k = torch.randn(2, 2, heads, 9, 4, dtype=torch.double)
    tau = torch.rand(heads, 1, 1, dtype=torch.double) + 0.05
    score = flow_attention.flow_scores
    assert torch.allclose(score(scale * q, k, tau), score(q, k, tau), rtol=0, atol=1e-9)


# --- DropKey


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.4])
@pytest.mark.parametrize("shift", [0, 3])
def test_dropkey_frequencies(rate, shift):
    "Binomial bounds over 10^6 rows and more, among visible keys; every row keeps one."
    torch.manual_seed(int(100 * rate) + shift)
    visible = shift_mask(56, 7, shift) if shift else None
    dropped, rows, empty, corner, struck = 0, 0, 0, 0, 0
    while rows < 10**6:
        mask = drop_keys((64 * 8, 3, 49, 49), rate, visible)
        seen = torch.ones(1, 1, 49, 49, dtype=torch.bool) if visible is None \
            else visible[:, None].repeat(8, 1, 1, 1)
        alive = seen & ~mask
        empty += int((~alive.any(-1)).sum())
        dropped += int((mask & seen).sum())
        struck += int(seen.expand_as(mask).sum())
        corner += int((alive.sum(-1)[63::64, :, 40:]).numel())
        rows += mask[..., 0].numel()
    assert rows >= 10**6 and empty == 0 and corner > 0
    # a row that lost all keys got one back: in 9 visible keys that is 1 of 9 with rate^9
    allowed = 6 * math.sqrt(struck * rate * (1 - rate)) + rows * rate**9 + struck / 2**15
    assert abs(dropped - struck * rate) < allowed, (dropped / struck, rate)


def test_dropkey_in_a_corner_would_strike_all_keys():
    "Why the guard is there: in 10^6 rows of nine visible keys, 0.4^9 would empty about 262."
    torch.manual_seed(0)
    plain = torch.rand(10**6, 9) < 0.4
    assert 180 < int(plain.all(-1).sum()) < 350
    visible = torch.zeros(1, 9, 49, dtype=torch.bool)
    visible[..., :9] = True
    visible = torch.cat([visible, torch.ones(1, 40, 49, dtype=torch.bool)], 1)
    mask = drop_keys((40000, 3, 49, 49), 0.4, visible)[:, :, :9, :9]
    assert mask[..., 0].numel() > 10**6 and not mask.all(-1).any()


# --- every reading


@pytest.mark.parametrize("name", SETTINGS)
def test_one_clip_trains_and_is_predicted(name):
    "Batch 1 in both modes; repeatable; every parameter has a gradient, in fp32 and in bf16."
    config, losses = SETTINGS[name], []
    image, flow = batch(config)
    torch.manual_seed(0)
    network = build(config)
    for precision in (False, True):
        for _ in range(2):
            torch.manual_seed(1)
            network.zero_grad()
            network.train()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision):
                logits = network(image, flow)
            loss = focal(logits.float(), torch.tensor([1])).sum()
            loss.backward()
            losses.append((loss.item(), [p.grad.clone() for p in network.parameters()]))
        silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
        assert silent == []
        network.eval()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision):
            assert torch.equal(network(image, flow), network(image, flow))
    for k in (0, 2):
        assert losses[k][0] == losses[k + 1][0] > 0
        assert all(torch.equal(a, b) for a, b in zip(losses[k][1], losses[k + 1][1]))
    assert losses[0][0] != losses[2][0] and abs(losses[0][0] - losses[2][0]) < 0.1


def test_the_keys_bias_is_the_only_one_without_a_say():
    """Without flow attention, a constant added to all keys of a head shifts a query's scores alike.

    Its gradient is zero but for rounding. The flow's cosine sees it.
    """
    for on in (False, True):
        torch.manual_seed(0)
        network = build(replace(QUICK, flow_attention=on, dropkey=0.0)).double().train()
        image, flow = batch(QUICK, 2).double()
        network(image, flow).square().sum().backward()
        gradient = {}
        for name, p in network.named_parameters():
            if name.endswith("qkv.bias"):
                for part, g in zip("qkv", p.grad.chunk(3)): gradient[name + part] = g.abs().max()
            else: gradient[name] = p.grad.abs().max()
        none = {name for name, g in gradient.items() if g < 1e-12}
        keys = {name for name in gradient if name.endswith("qkv.biask")}
        assert len(keys) == 4 and none == (set() if on else keys)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_forward_compiles_without_a_break(name):
    "`fullgraph` refuses any break; executed by torch itself, so that no compiler is needed."
    config = SETTINGS[name]
    image, flow = batch(config)
    for training in (True, False):  # with DropKey's draws, and without
        torch._dynamo.reset()
        torch.manual_seed(0)
        network = build(config).train(training)
        traced = torch.compile(network, backend="eager", fullgraph=True)
        torch.manual_seed(1)
        want = network(image, flow)
        torch.manual_seed(1)
        assert torch.allclose(traced(image, flow), want, atol=1e-5)


# --- parameters, counted by hand


def linear(i, o, bias=True): return i * o + bias * o


def layer_count(c, heads, flow, separate):
    tables = 13**2 * heads * (1 + (flow and separate))
    attention = linear(c, 3 * c) + linear(c, c) + tables + flow * heads
    return attention + linear(c, 4 * c) + linear(4 * c, c) + 2 * 2 * c


def parameters(config):
    flow, steps = config.flow_attention, geometry(config)
    c, c2 = steps[0][1], steps[-1][1]
    embed = linear(3 * config.patch**2, c) * (1 + (flow and not config.shared_embed))
    merge = sum(2 * 4 * a + linear(4 * a, b, False) for (_, a), (_, b) in zip(steps, steps[1:]))
    bare = 0 if config.flow_norm else sum(2 * 4 * a for (_, a), _ in zip(steps, steps[1:]))
    layers = sum(2 * layer_count(w, h, flow, config.bias == "separate")
                 for w, h in zip((c, c2), config.heads))
    # the SSSN's maps: 224 -> 54 -> 26 -> 12 px, and 56 -> 26 -> 12 -> 5 px
    (kernel, side), wide = {224: (11, 12), 56: (5, 5)}[config.image_size], 2 * (4 * c // 3)
    sssn = (linear(3 * kernel**2, c) + linear(c // 2 * 25, wide) + linear(wide * side**2, 2 * c))
    return embed + merge * (1 + flow) - bare + layers + sssn + linear(c2 + 2 * c, 3)


@pytest.mark.parametrize("name", SETTINGS)
def test_parameters_are_those_of_the_paper_counted_by_hand(name):
    assert sum(p.numel() for p in build(SETTINGS[name]).parameters()) == parameters(SETTINGS[name])


# --- learning, and refusing


def learn(config, device, steps, size):
    "The focal loss of one fixed batch after each step of Adan."
    torch.manual_seed(0)
    from mfdan.training.adan import Adan
    network = build(replace(config, dropkey=0.0)).to(device).train()
    image, flow = batch(config, size).to(device)
    target = torch.arange(size, device=device) % 3
    optimizer, losses = Adan(network.parameters(), lr=1e-3), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = focal(network(image, flow), target).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_one_batch_is_learned():
    losses = learn(QUICK, "cpu", 40, 6)
    assert losses[0] > 0.1 and min(losses) < 0.01, losses


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_one_batch_is_learned_at_full_size():
    losses = learn(PAPER, "cuda", 60, 16)
    assert losses[0] > 0.1 and min(losses) < 0.01, losses


@pytest.mark.parametrize("change, said", [
    ({"image_size": 200}, "must be a multiple of 224"),
    ({"image_size": 112, "mergings": 3}, "must be a multiple of 224"),
    ({"width": 95}, "3 heads do not divide a width of 95: use one of 1, 5, 19, 95"),
    ({"heads": (3, 5)}, "5 heads do not divide a width of 192: use one of 1, 2, 3, 4, 6"),
    ({"dropkey": 1.0}, r"dropkey must lie in \[0, 1\); got 1.0"),
    ({"dropkey": -0.1}, r"dropkey must lie in \[0, 1\)"),
    ({"merging": "none"}, "merging must be one of 'keep', 'swin', 'one'"),
    ({"bias": "both"}, "bias must be one of 'shared', 'separate'"),
    ({"mask": "x"}, "mask must be one of"), ({"drop": "x"}, "drop must be one of"),
])
def test_what_cannot_be_built_is_refused(change, said):
    with pytest.raises(ValueError, match=said): build(replace(MFDANConfig(), **change))


def test_an_unknown_reading_is_refused():
    with pytest.raises(ValueError, match="reading must be one of 'default', 'swin'"):
        reading(PAPER, "swim")


def test_an_unknown_method_and_settings_of_none_are_refused():
    with pytest.raises(ValueError, match="method must be one of .*'mfdan'.*; got 'mfdam'"):
        find_method("mfdam")
    with pytest.raises(ValueError, match="str is no method's settings; there are"): build("mfdan")


@pytest.mark.parametrize("spoil", [
    lambda x, f: (x[:, :2], f), lambda x, f: (x, f[:, :2]), lambda x, f: (x[..., :28], f),
    lambda x, f: (x, f[0])])
def test_input_of_another_shape_is_refused(spoil):
    image, flow = spoil(*batch(QUICK))
    with pytest.raises(ValueError, match=r"must be \[b, 3, 56, 56\]; got"):
        build(QUICK)(image, flow)
