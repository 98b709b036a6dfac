from __future__ import annotations

import pytest
import torch

from foresighted.errors import DataError
from foresighted.influence import head_products


def test_products_from_features_equal_those_of_autograd_gradients():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    reference = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    head = torch.nn.Linear(5, 1).double()

    def gradient(row):
        return torch.cat([g.flatten() for g in torch.autograd.grad(head(row), list(head.parameters()))])

    products = head_products(features, reference)
    for b in range(2):
        other = gradient(reference[b])
        for n in range(3):
            own = gradient(features[b, n])
            assert float(products.gram[b, n]) == pytest.approx(float(own @ (own - other)), rel=1e-12)
            assert float(products.spread[b, n]) == pytest.approx(float((own - other).square().sum()), rel=1e-12)


@pytest.mark.parametrize(
    ("features", "reference"), [((2, 3, 4), (3, 4)), ((2, 3, 4), (2, 5)), ((6, 4), (2, 4)), ((2, 3, 4), (2, 1, 4))]
)
def test_shapes_that_do_not_match_are_named(features, reference):
    with pytest.raises(DataError, match=r"do not match; expected \(B, N, D\) and \(B, D\)"):
        head_products(torch.zeros(features), torch.zeros(reference))
