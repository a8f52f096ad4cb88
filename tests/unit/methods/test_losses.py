"""Losses against numbers worked out by hand."""

import pytest
import torch

from bigbigan.methods.losses import discriminator_loss, encoder_generator_loss


def s(*values):
    return torch.tensor(values)


def test_discriminator_loss_is_a_hinge_on_each_score():
    enc = {"s_x": s(2.0, 0.5), "s_z": s(-1.0, 0.0), "s_xz": s(1.0, 3.0)}  # relu(1-s): (0, .5), (2, 1), (0, 0)
    gen = {
        "s_x": s(-2.0, 0.0),
        "s_z": s(1.0, -1.0),
        "s_xz": s(-3.0, -1.5),
    }  # relu(1+s): (0, 1), (2, 0), (0, 0)
    assert discriminator_loss(enc, gen).item() == pytest.approx((0.25 + 1.5 + 0 + 0.5 + 1.0 + 0) / 3)


def test_hinge_is_on_each_score_and_not_on_their_sum():
    enc, gen = {"s_x": s(3.0), "s_z": s(-3.0)}, {"s_x": s(-3.0), "s_z": s(3.0)}
    assert discriminator_loss(enc, gen).item() == 4.0  # the sums are 0: hinge of the sum would be 2


def test_hinge_of_the_sum_is_the_variant_that_was_left():
    enc, gen = {"s_x": s(3.0), "s_z": s(-3.0)}, {"s_x": s(-3.0), "s_z": s(3.0)}
    assert discriminator_loss(enc, gen, hinge_on_sum=True).item() == 2.0


def test_a_gan_has_the_generators_part_alone():
    assert encoder_generator_loss({}, {"s_x": s(-4.0)}).item() == 4.0


def test_encoder_generator_loss_has_opposite_signs_and_no_hinge():
    enc, gen = {"s_x": s(5.0), "s_xz": s(1.0)}, {"s_x": s(-4.0), "s_xz": s(2.0)}
    assert encoder_generator_loss(enc, gen).item() == 3.0 - (-1.0)


def test_terms_of_encoder_and_generator_sum_to_their_loss():
    enc, gen = {"s_x": s(5.0, 2.0), "s_xz": s(1.0, 0.0)}, {"s_x": s(-4.0, 1.0), "s_xz": s(2.0, 2.5)}
    whole = encoder_generator_loss(enc, gen).item()
    assert encoder_generator_loss(enc, {}).item() + encoder_generator_loss({}, gen).item() == pytest.approx(whole)


def test_gradients_push_apart_and_together():
    e, g = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    discriminator_loss({"s_xz": e}, {"s_xz": g}).backward()
    assert (e.grad < 0).all()  # descending raises encoder pairs
    assert (g.grad > 0).all()
    e.grad, g.grad = None, None
    encoder_generator_loss({"s_xz": e}, {"s_xz": g}).backward()
    assert (e.grad > 0).all()
    assert (g.grad < 0).all()
