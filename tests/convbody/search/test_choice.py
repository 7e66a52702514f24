"""Shares, draws of branches and the loss, against closed forms and in expectation."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convbody.search.choice import adapted_beta, draw_branches, gumbel_shares, search_loss, targeted_loss


def test_gumbel_shares_at_low_temperature_are_draws_of_the_softmax():
    theta = torch.tensor([[0.0, 1.0, 2.0]]).expand(20000, 3)
    winners = gumbel_shares(theta, 0.01).argmax(1).bincount(minlength=3) / 20000
    assert torch.allclose(winners, torch.tensor([0.0, 1.0, 2.0]).softmax(0), atol=0.015)


def test_gumbel_shares_at_high_temperature_are_equal():
    assert torch.allclose(gumbel_shares(torch.randn(5, 4), 1e4), torch.full((5, 4), 0.25), atol=1e-2)


@given(
    cross_entropy=st.floats(0.01, 10),
    latency=st.floats(10, 1e6),
    alpha=st.floats(0.01, 2),
    beta=st.floats(0, 3),
)
def test_the_loss_and_its_gradient_are_the_closed_form(cross_entropy, latency, alpha, beta):
    given = torch.tensor([cross_entropy, latency], dtype=torch.float64)
    ce, lat = (value.clone().requires_grad_() for value in given)
    loss = search_loss(ce, lat, alpha, beta)
    loss.backward()
    assert loss.item() == pytest.approx(cross_entropy * alpha * math.log(latency) ** beta)
    assert ce.grad.item() == pytest.approx(alpha * math.log(latency) ** beta)
    slope = cross_entropy * alpha * beta * math.log(latency) ** (beta - 1) / latency
    assert lat.grad.item() == pytest.approx(slope, rel=1e-9)


def test_beta_is_outside_the_logarithm():
    """Inside, log(latency ** beta) = beta * log(latency): the ratio of two losses would not know beta."""
    ce, quick, slow = torch.tensor(1.0), torch.tensor(1e3), torch.tensor(1e4)
    ratios = [
        (search_loss(ce, slow, 0.2, beta) / search_loss(ce, quick, 0.2, beta)).item() for beta in (0, 0.6, 3)
    ]
    assert ratios == [pytest.approx((4 / 3) ** beta) for beta in (0, 0.6, 3)]


def test_beta_grows_above_the_target_and_falls_below():
    assert adapted_beta(0.6, 2000.0, 1000.0, 0.5) == pytest.approx(0.6 * math.sqrt(2))
    assert adapted_beta(0.6, 500.0, 1000.0, 1.0) == pytest.approx(0.3)
    assert adapted_beta(0.6, 1000.0, 1000.0, 1.0) == 0.6


def test_with_a_target_the_gradient_has_the_direction_of_the_loss():
    gradients = []
    for loss in (lambda *x: search_loss(*x, 0.2, 1.5), lambda *x: targeted_loss(*x, 1.5)):
        inputs = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (2.3, 1000.0)]
        gradients.append(torch.stack(torch.autograd.grad(loss(*inputs), inputs)))
    assert torch.allclose(gradients[1] * 0.2 * math.log(1000) ** 1.5, gradients[0])


def test_a_single_draw_is_one_branch_whole():
    shares = torch.randn(6, 4).softmax(1)
    for picks in draw_branches(shares, 1):
        assert [factor.item() for _, factor in picks] == [1.0]


def test_sampled_branches_have_the_output_and_gradient_of_the_mixture_in_expectation():
    """For an outcome linear in the factors; each mean lies within five of its standard errors."""
    count, generator = 1500, torch.Generator().manual_seed(0)
    theta = torch.randn(3, 4, generator=generator, requires_grad=True)
    values = torch.randn(3, 4, generator=generator)
    noise = torch.randn(3, 4, generator=generator)

    def shares():
        return ((theta + noise) / 2.0).softmax(1)  # the same mixture each time

    mixture = (shares() * values).sum()
    (expected,) = torch.autograd.grad(mixture, theta)
    outputs, gradients = [], []
    for _ in range(count):
        draw = draw_branches(shares(), 2)
        output = sum(
            factor * values[layer, index] for layer, picks in enumerate(draw) for index, factor in picks
        )
        outputs.append(output.detach())
        gradients.append(torch.autograd.grad(output, theta)[0])
    for samples, wanted in ((torch.stack(outputs), mixture.detach()), (torch.stack(gradients), expected)):
        error = samples.std(0) / math.sqrt(count)
        assert ((samples.mean(0) - wanted).abs() < 5 * error).all()
        assert (error < 0.1).all()
