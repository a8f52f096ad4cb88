"""Jensen-Shannon divergence and the value of the game, against known answers, scipy and the theorems."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from bigbigan.methods.divergence import gan_value, jensen_shannon, l0_autoencoder_terms, optimal_discriminator

counts = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=12)
two = counts.map(lambda pairs: np.array(pairs).T).filter(lambda pq: pq.any(axis=1).all())
quick = settings(max_examples=30, deadline=None)


def joints(x=3, z=4):
    """Two joint histograms over (x, z) that agree in a few places at least."""
    cells = st.lists(st.integers(0, 3), min_size=x * z, max_size=x * z).filter(any)
    return st.tuples(cells, cells).map(lambda pq: np.reshape(pq, (2, x, z)))


@pytest.mark.parametrize(
    ("p", "q", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], 0),
        ([1, 2, 3], [10, 20, 30], 0),  # counts of another number of samples
        ([1, 0], [0, 1], math.log(2)),
        ([1, 1, 0, 0], [0, 0, 5, 7], math.log(2)),
        ([[1, 0], [0, 1]], [[0, 1], [1, 0]], math.log(2)),  # equal marginals, and nothing in common
        ([1, 1], [1, 0], 0.75 * math.log(4 / 3)),  # m = (3/4, 1/4): by hand
        (2, 3, 0),  # one point
    ],
)
def test_known_answers(p, q, expected):
    assert jensen_shannon(p, q) == pytest.approx(expected, abs=1e-15)
    assert jensen_shannon(p, q, base=2) == pytest.approx(expected / math.log(2), abs=1e-15)


@quick
@given(two)
def test_it_is_the_square_of_scipys_distance(pq):
    p, q = pq
    for base in (None, 2, 10):
        ours, theirs = jensen_shannon(p, q, base), jensenshannon(p, q, base) ** 2
        assert ours == pytest.approx(0 if np.isnan(theirs) else theirs, abs=1e-14)  # theirs: root of a rounded 0


@quick
@given(two, st.floats(1e-3, 1e3), st.randoms(use_true_random=False))
def test_it_is_symmetric_bounded_and_blind_to_scale_and_order(pq, scale, random):
    p, q = pq
    js = jensen_shannon(p, q)
    assert 0 <= js <= math.log(2)
    assert 0 <= jensen_shannon(p, q, base=2) <= 1
    order = random.sample(range(len(p)), len(p))
    for other in ((q, p), (scale * p, q), (p[order], q[order]), (p[:, None], q[:, None])):
        assert jensen_shannon(*other) == pytest.approx(js, abs=1e-14)


@quick
@given(joints())
def test_it_is_zero_only_if_joint_distributions_are_equal(pq):
    p, q = (h / h.sum() for h in pq)
    assert jensen_shannon(p, p) == pytest.approx(0, abs=1e-15)
    assert (jensen_shannon(p, q) < 1e-12) == np.allclose(p, q, rtol=0, atol=1e-12)


@quick
@given(joints())
def test_marginals_differ_at_most_as_much_as_joints(pq):
    p, q = (h / h.sum() for h in pq)
    for axis in (0, 1):
        assert jensen_shannon(p.sum(axis), q.sum(axis)) <= jensen_shannon(p, q) + 1e-14


@quick
@given(joints(), st.integers(0, 2**32 - 1))
def test_the_best_discriminator_reaches_the_divergence(pq, seed):
    p, q = pq
    best = optimal_discriminator(p, q)
    value = gan_value(p, q, best)
    assert value == pytest.approx(2 * jensen_shannon(p, q) - math.log(4), abs=1e-14)
    rng = np.random.default_rng(seed)
    steps = 10.0 ** rng.uniform(-6, 0, (20, 1, 1)) * rng.normal(size=(20, *p.shape))
    others = [*rng.uniform(size=(20, *p.shape)), *np.clip(best + steps, 0, 1), np.full(p.shape, 0.5)]
    assert max(gan_value(p, q, d) for d in others) <= value + 1e-14
    assert gan_value(p, q, others[-1]) == pytest.approx(-math.log(4))


def test_the_optimal_discriminator_by_hand():
    d = optimal_discriminator([[2, 0], [2, 0]], [[1, 3], [0, 0]])  # p: 1/2, 1/2; q: 1/4, 3/4
    np.testing.assert_allclose(d, [[2 / 3, 0], [1, math.nan]])


def test_a_surely_wrong_discriminator_has_unbounded_loss():
    assert gan_value([1, 0], [0, 1], [1, 0]) == 0
    assert gan_value([1, 0], [0, 1], [0, 0]) == -math.inf
    assert gan_value([1, 0], [0, 1], [1, 1]) == -math.inf


def test_joints_are_equal_only_if_e_and_g_are_inverse():
    """All 729 pairs of deterministic E and G on three images and three latents, P_x and P_z uniform."""
    eye, third = np.eye(3), np.full((3, 1), 1 / 3)
    for e, g in product(product(range(3), repeat=3), repeat=2):
        of_e, of_g = third * eye[list(e)], (third * eye[list(g)]).T  # over (x, z): (x, E(x)) and (G(z), z)
        inverse = all(g[e[x]] == x for x in range(3)) and all(e[g[z]] == z for z in range(3))
        assert (jensen_shannon(of_e, of_g) < 1e-12) == inverse


@st.composite
def maps(draw):
    """Draw P_x, P_z (zeros among them), E and G over a few images and latents."""
    n, m = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    p_x = draw(st.lists(st.integers(0, 6), min_size=n, max_size=n).filter(any))
    p_z = draw(st.lists(st.integers(0, 6), min_size=m, max_size=m).filter(any))
    latent_of = draw(st.lists(st.integers(0, m - 1), min_size=n, max_size=n))
    return p_x, p_z, latent_of, draw(st.lists(st.integers(0, n - 1), min_size=m, max_size=m))


@quick
@given(maps())
def test_theorem_3_term_by_term(drawn):
    """The two terms, one pair at a time in plain Python, and their sum against the value of the best D."""
    p_x, p_z, latent_of, image_of = drawn
    a, b = sum(p_x), sum(p_z)
    of_x = of_z = 0.0
    joint = {"E": np.zeros((len(p_x), len(p_z))), "G": np.zeros((len(p_x), len(p_z)))}
    for x, z in enumerate(latent_of):
        joint["E"][x, z] += p_x[x]
        if image_of[z] == x and p_z[z] > 0 and p_x[x] > 0:
            of_x += p_x[x] / a * math.log((p_x[x] / a) / (p_x[x] / a + p_z[z] / b))
    for z, x in enumerate(image_of):
        joint["G"][x, z] += p_z[z]
        if latent_of[x] == z and p_x[x] > 0 and p_z[z] > 0:
            of_z += p_z[z] / b * math.log(1 - (p_x[x] / a) / (p_x[x] / a + p_z[z] / b))
    found = l0_autoencoder_terms(p_x, p_z, latent_of, image_of)
    assert found == pytest.approx((of_x, of_z), abs=1e-13)
    assert all(-math.log(2) - 1e-12 <= term <= 0 for term in found)
    best = optimal_discriminator(joint["E"], joint["G"])
    assert sum(found) == pytest.approx(gan_value(joint["E"], joint["G"], best), abs=1e-13)


def test_the_l0_terms_by_hand():
    half = math.log(0.5) / 2
    assert l0_autoencoder_terms([1, 1], [1, 1], [0, 1], [0, 1]) == pytest.approx((2 * half, 2 * half))
    assert l0_autoencoder_terms([1, 1], [1, 1], [0, 0], [0, 1]) == pytest.approx((half, half))  # image 1 is lost
    assert l0_autoencoder_terms([1, 1], [1, 1], [0, 1], [1, 0]) == (0, 0)  # nothing comes back
    assert l0_autoencoder_terms([1, 0], [0, 1], [0, 1], [0, 1]) == (0, 0)  # equal maps, but of what never occurs
    found = l0_autoencoder_terms([3, 1], [1], [0, 0], [0])  # f = (3/4) / (3/4 + 1)
    assert found == pytest.approx((0.75 * math.log(3 / 7), math.log(4 / 7)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 1], [1, 1], [0], [0, 1]), r"latent_of is int64 of shape \(1,\); expected 2 whole numbers"),
        (([1, 1], [1, 1], [0, 2], [0, 1]), "latent_of has numbers outside 0 to 1"),
        (([1, 1], [1, 1], [0, 1], [0, -1]), "image_of has numbers outside 0 to 1"),
        (([1, 1], [1, 1], [0, 1], [0.0, 1.0]), "image_of is float64"),
        (([1, -1], [1, 1], [0, 1], [0, 1]), "p_x has negative"),
        (([1, 1], [0, 0], [0, 1], [0, 1]), "p_z is zero everywhere"),
        (([[1, 1]], [1, 1], [0, 1], [0, 1]), "one dimension each"),
    ],
)
def test_bad_maps_are_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        l0_autoencoder_terms(*arguments)
    assert "\n" not in str(error.value)


def test_numbers_of_any_size():
    assert jensen_shannon([1e308, 1e308], [5e-324, 5e-324]) == 0
    assert jensen_shannon([1, 1e-320], [1e-320, 1]) == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("p", "q", "message"),
    [
        ([1, 2], [1, 2, 3], "shape"),
        ([[1, 2]], [1, 2], "shape"),
        ([1, -1], [1, 1], "p has negative"),
        ([1, 1], [1, math.nan], "q has values that are not finite"),
        ([math.inf, 1], [1, 1], "p has values that are not finite"),
        ([1, 1], [0, 0], "q is zero everywhere"),
        ([], [], "p is zero everywhere"),
    ],
)
def test_bad_histograms_are_refused_in_one_line(p, q, message):
    for call in (jensen_shannon, optimal_discriminator, lambda p, q: gan_value(p, q, q)):
        with pytest.raises(ValueError, match=message) as error:
            call(p, q)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("d", [[0.5], [0.5, 1.5], [-0.1, 0.5], [math.nan, 0.5]])
def test_a_discriminator_that_is_none_is_refused(d):
    with pytest.raises(ValueError, match="d has"):
        gan_value([1, 1], [1, 0], d)


@pytest.mark.parametrize("base", [0, 1, -2, 0.5, math.nan, math.inf])
def test_bases_that_are_none_are_refused(base):
    with pytest.raises(ValueError, match="base"):
        jensen_shannon([1, 1], [1, 0], base)
