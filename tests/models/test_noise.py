from __future__ import annotations

import numpy as np
import torch

from foresighted.models import noise


def test_keys_are_stable_and_distinct():
    assert noise.key(0, "candidate", 1, "p", 2) == noise.key(0, "candidate", 1, "p", 2)
    assert len({noise.key(0, "candidate", r, p, n) for r in range(20) for p in "abc" for n in range(8)}) == 480
    assert noise.key(1, 23) != noise.key(12, 3)


def test_gumbel_noise_has_the_gumbel_distribution():
    rows = torch.tensor([noise.key("row", i) for i in range(64)])
    tokens = torch.arange(4096).expand(64, -1)
    values = noise.gumbel(rows, 3, tokens).double().flatten().numpy()
    assert abs(values.mean() - 0.57722) < 0.01
    assert abs(values.var() - np.pi**2 / 6) < 0.03
    table = noise.gumbel(rows, 3, tokens).numpy()
    assert abs(np.corrcoef(table[0], table[1])[0, 1]) < 0.06
    following = noise.gumbel(rows, 4, tokens).numpy()
    assert abs(np.corrcoef(table.ravel(), following.ravel())[0, 1]) < 0.01


def test_sampling_frequencies_follow_the_nucleus():
    logits = torch.tensor([3.0, 2.0, 1.5, 0.0, -1.0]).expand(20_000, -1)
    rows = torch.tensor([noise.key("draw", i) for i in range(20_000)])
    drawn = noise.NucleusSampler(rows, temperature=0.8, top_p=0.9)(None, logits).argmax(-1)
    p = (torch.tensor([3.0, 2.0, 1.5, 0.0, -1.0]) / 0.8).softmax(-1)
    kept = (p.cumsum(-1) - p) < 0.9
    want = torch.where(kept, p, 0) / p[kept].sum()
    got = torch.bincount(drawn, minlength=5) / 20_000
    torch.testing.assert_close(got, want, atol=0.012, rtol=0)


def test_a_wide_nucleus_is_found_beyond_the_first_partial_sort():
    flat = torch.zeros(2, 5000)
    scores = noise.NucleusSampler(torch.tensor([1, 2]), temperature=1.0, top_p=0.5)(None, flat)
    assert (scores.isfinite().sum(-1) == 2500).all() or ((scores.isfinite().sum(-1) - 2500).abs() <= 1).all()


def test_a_draw_does_not_depend_on_the_rest_of_the_batch():
    logits = torch.randn(6, 700, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([noise.key(i) for i in range(6)])
    together = noise.NucleusSampler(rows, temperature=1.0, top_p=0.95)(None, logits).argmax(-1)
    alone = [
        noise.NucleusSampler(rows[i : i + 1], temperature=1.0, top_p=0.95)(None, logits[i : i + 1]).argmax(-1)
        for i in range(6)
    ]
    assert together.tolist() == [int(a) for a in alone]


def test_uniform_is_uniform():
    values = np.array([noise.uniform(i) for i in range(5000)])
    assert abs(values.mean() - 0.5) < 0.02
    assert 0 < values.min() < 0.01
    assert 0.99 < values.max() < 1
