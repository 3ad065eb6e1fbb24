"""The loss terms against values computed by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from datasets.mixup import draw_mix, mix_images, mix_terms
from losses import divergences
from losses.balance import FixedBalance, LearntBalance
from losses.divergences import kl_divergence, wasserstein_distance
from losses.terms import Logits, classification_loss, global_information_loss, local_information_loss, loss_terms

LN3 = math.log(3)


def outputs() -> Logits:
    """One image with p(fake) 3/4 given G, 1/2 given Z, 1/4 without z_1 and 1/2 without z_2."""
    return Logits(
        fused=torch.tensor([[0.0, LN3]], requires_grad=True),
        all=torch.tensor([[0.0, 0.0]], requires_grad=True),
        leave_one_out=[torch.tensor([[LN3, 0.0]], requires_grad=True), torch.tensor([[5.0, 5.0]])],
    )


FAKE = torch.tensor([1])
# KL((1/4, 3/4) || (1/2, 1/2)) divided by 1 image times 2 classes
KL = (0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)) / 2


def test_kl_divides_by_images_times_classes() -> None:
    p = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    q = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    assert kl_divergence(p, q).item() == pytest.approx(KL / 2)
    assert kl_divergence(q, p).item() == pytest.approx((0.5 * math.log(2) + 0.5 * math.log(2 / 3)) / 4)


def test_kl_has_a_finite_gradient_if_p_is_0_or_1() -> None:
    p = torch.tensor([[400.0, 0.0]], requires_grad=True)
    kl_divergence(p.softmax(dim=1), torch.tensor([[0.5, 0.5]])).backward()
    assert p.grad.isfinite().all()


def test_kl_is_finite_if_q_is_0_or_1() -> None:
    q = torch.tensor([[400.0, 0.0]], requires_grad=True)
    loss = kl_divergence(torch.tensor([[0.0, 1.0]]), q.softmax(dim=1))
    loss.backward()
    assert loss.item() == pytest.approx(87.34 / 2, rel=1e-3)
    assert q.grad.isfinite().all()


def test_classification_loss_sums_the_heads_in_use() -> None:
    fused, everything, without = math.log(4 / 3), math.log(2), math.log(4) + math.log(2)
    for lil, gil, expected in (
        (False, False, fused),
        (False, True, fused + everything),
        (True, False, fused + without),
        (True, True, fused + everything + without),
    ):
        assert classification_loss(outputs(), FAKE, lil, gil).item() == pytest.approx(expected)


def test_local_loss() -> None:
    heads = outputs()
    loss = local_information_loss(heads, 1.0, kl_divergence)
    assert loss.item() == pytest.approx(math.exp(-KL))
    loss.backward()
    assert heads.all.grad is None  # p(y | Z) is detached
    assert heads.leave_one_out[0].grad is not None


def test_global_loss() -> None:
    heads = outputs()
    loss = global_information_loss(heads, 1.0, kl_divergence)
    assert loss.item() == pytest.approx(KL)
    loss.backward()
    assert heads.all.grad is None
    assert heads.fused.grad is not None


def test_temperature_applies_to_both_sides() -> None:
    heads = Logits(torch.tensor([[0.0, 2 * LN3]]), torch.tensor([[0.0, 0.0]]), [])
    assert global_information_loss(heads, 2.0, kl_divergence).item() == pytest.approx(KL)


def test_terms_in_use() -> None:
    every = loss_terms(outputs(), FAKE, True, True, 1.5, kl_divergence)
    assert list(every) == ["classification", "local", "global"]
    assert list(loss_terms(outputs(), FAKE, False, False, 1.5, kl_divergence)) == ["classification"]


def test_wasserstein_of_one_image_is_the_squared_distance() -> None:
    p, q = torch.tensor([[0.2, 0.8]]), torch.tensor([[0.5, 0.5]])
    assert wasserstein_distance(p, q).item() == pytest.approx(0.3**2 + 0.3**2, rel=1e-5)


def test_wasserstein_is_near_the_exact_transport() -> None:
    draw = torch.Generator().manual_seed(1)
    p, q = (torch.randn(8, 2, generator=draw, dtype=torch.float64).softmax(1) for _ in range(2))
    cost = torch.cdist(p, q).square().numpy()
    exact = cost[linear_sum_assignment(cost)].mean()
    assert exact == pytest.approx(0.084, abs=0.001)
    # The entropy term smooths the plan over distances of about sqrt(epsilon) = 0.1.
    assert exact <= wasserstein_distance(p, q).item() <= exact + 0.005
    paired = (p - q).square().sum(1).mean().item()
    assert wasserstein_distance(p, q).item() < 0.8 * paired  # the best matching, not the given pairs
    assert wasserstein_distance(p, p[torch.randperm(8, generator=draw)]).item() < 0.005


def test_wasserstein_settles_where_100_iterations_do_not() -> None:
    draw = torch.Generator().manual_seed(0)
    for spread in (1.0, 3.0, 1e4):
        for size in (2, 8, 32):
            p, q = ((spread * torch.randn(size, 2, generator=draw)).softmax(1).double() for _ in range(2))
            cost = (p[:, None] - q[None]).square().sum(2).numpy()
            exact = cost[linear_sum_assignment(cost)].mean()
            assert wasserstein_distance(p, q).item() == pytest.approx(exact, rel=0.01, abs=0.005)


def test_an_unsettled_plan_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergences, "SINKHORN_ITERATIONS", 100)
    p = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    with pytest.warns(UserWarning, match="--mi_calculator w"):
        wasserstein_distance(p, p[[0, 2, 2]])


def draw_logits(size: int, spread: float, count: int) -> list[torch.Tensor]:
    """Logits, half of them for fake, so that a transport plan at extreme logits settles soon."""
    draw = torch.Generator().manual_seed(3)
    half = [torch.randn((size + 1) // 2, 2, generator=draw, dtype=torch.float64) for _ in range(count)]
    return [spread * torch.cat([part, -part])[:size] for part in half]


@pytest.mark.parametrize(
    ("divergence", "sizes"), [(kl_divergence, (1, 2, 1000)), (wasserstein_distance, (1, 2, 10))], ids=("kl", "w")
)
@pytest.mark.parametrize("spread", [1.0, 1e4])
def test_gradients(monkeypatch: pytest.MonkeyPatch, divergence: Any, sizes: tuple[int, ...], spread: float) -> None:
    """Gradients of all terms against differences, with four different heads and with four equal ones."""
    monkeypatch.setattr(divergences, "SINKHORN_TOLERANCE", 1e-8)  # the differences show what a looser plan leaves
    for size in sizes:
        labels = torch.arange(size) % 2

        def terms(fused: Tensor, everything: Tensor, *others: Tensor, labels: Tensor = labels) -> tuple[Tensor, ...]:
            outputs = Logits(fused, everything, list(others))
            return tuple(loss_terms(outputs, labels, True, True, 1.5, divergence).values())

        logits = draw_logits(size, spread, 4)
        for inputs in (logits, [logits[0]] * 4):
            # The reference p(y | Z) of the local and the global loss has no gradient.
            heads = [head.clone().requires_grad_(number != 1) for number, head in enumerate(inputs)]
            assert all(value.isfinite() and value > -1e-12 for value in terms(*heads))
            assert torch.autograd.gradcheck(terms, heads, fast_mode=True)


@pytest.mark.slow
def test_gradient_of_a_large_transport_plan() -> None:
    p, q = (logits.softmax(1) for logits in draw_logits(1000, 0.1, 2))
    extreme = draw_logits(1000, 1e4, 1)[0].softmax(1)
    for first, second in ((p, q), (extreme, extreme)):
        moved = first.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda p, q=second: wasserstein_distance(p, q), moved, fast_mode=True)


def test_wasserstein_as_divergence_of_the_terms() -> None:
    terms = loss_terms(outputs(), FAKE, True, True, 1.0, wasserstein_distance)
    assert terms["global"].item() == pytest.approx(2 * 0.25**2, rel=1e-4)
    assert terms["local"].item() == pytest.approx(math.exp(-2 * 0.25**2), rel=1e-4)


TERMS = {"classification": torch.tensor(4.0), "local": torch.tensor(0.5), "global": torch.tensor(0.25)}


def test_learnt_balance() -> None:
    balance = LearntBalance(list(TERMS))
    total = balance(TERMS)
    assert total.item() == pytest.approx(0.5 * 4.75 + 3 * math.log(2))
    total.backward()
    # d/dw of 0.5 / w^2 * loss + log(1 + w^2) at w = 1 is 1 - loss
    gradients = {name: weight.grad.item() for name, weight in balance.weights.items()}
    assert gradients == pytest.approx({"classification": -3.0, "local": 0.5, "global": 0.75})


def test_learnt_weights_are_found_by_name() -> None:
    balance = LearntBalance(["classification", "global"])
    assert sorted(balance.weights) == ["classification", "global"]
    with torch.no_grad():
        balance.weights["global"].fill_(2.0)
    total = balance({"classification": TERMS["classification"], "global": TERMS["global"]})
    assert total.item() == pytest.approx(2.0 + math.log(2) + 0.125 * 0.25 + math.log(5))


def test_scales_are_in_order_classification_local_global_and_found_by_name() -> None:
    balance = FixedBalance([1.0, 2.0, 10.0])
    assert balance(TERMS).item() == pytest.approx(4 + 2 * 0.5 + 10 * 0.25)
    without_local = {name: TERMS[name] for name in ("classification", "global")}
    assert balance(without_local).item() == pytest.approx(4 + 10 * 0.25)


def test_mixup_uses_one_lambda_per_batch() -> None:
    torch.manual_seed(0)
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 2, 2)
    lam, partner = draw_mix(8, 0.5)
    blends = mix_images(images, images[partner], lam)
    assert sorted(partner.tolist()) == list(range(8))
    torch.testing.assert_close(blends[:, 0, 0, 0], lam * torch.arange(8) + (1 - lam) * partner)
    assert 0 <= lam <= 1


def test_mixup_draws_lambda_from_beta() -> None:
    torch.manual_seed(0)
    drawn = np.array([draw_mix(2, 0.5).lam for _ in range(2000)])
    assert drawn.mean() == pytest.approx(0.5, abs=0.03)
    assert drawn.var() == pytest.approx(1 / 8, abs=0.01)  # Beta(1/2, 1/2); the uniform distribution has 1/12


def test_mixed_terms() -> None:
    partner = {name: value * 2 for name, value in TERMS.items()}
    assert mix_terms(TERMS, partner, 0.25)["classification"].item() == pytest.approx(0.25 * 4 + 0.75 * 8)
