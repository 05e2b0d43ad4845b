"""Random numbers: Philox against the published vectors, distributions, dropout, reproducibility."""

import numpy as np
import pytest

import graphc as gx
from graphc.evaluate import evaluate
from graphc.ir.graph import Graph, topological
from graphc.ir.op import OPS, Kind
from graphc.ir.philox import Draws, group_count, number_draws, philox
from graphc.testing import check_grads

# Random123, kat_vectors: philox4x32 with 10 rounds: counter, key, result
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_philox_known_answers(counter: str, key: str, result: str) -> None:
    given = np.array([words(counter)] * 3, np.uint64).T
    k0, k1 = words(key)
    assert philox(given, (k0, k1)).T.tolist() == [words(result)] * 3


def test_words_depend_on_place_seed_step_and_number_only() -> None:
    draws = Draws(5, 7, {100: 0, 200: 1})
    whole = draws.words(100, 0, 10)
    assert whole.shape == (10, 4)
    assert whole.dtype == np.uint32
    assert np.array_equal(whole[3:8], draws.words(100, 3, 5))
    assert np.array_equal(whole, Draws(5, 7, {900: 0}).words(900, 0, 10))
    streams = [(6, 7), (5, 8), (5 + 2**40, 7), (5, 7 + 2**40)]
    others = [Draws(*stream, {100: 0}).words(100, 0, 10) for stream in streams]
    others.append(draws.words(200, 0, 10))
    assert all(not np.array_equal(whole, other) for other in others)
    counter = np.array([[3], [1], [7], [0]], np.uint64)
    assert philox(counter, (5, 0))[:, 0].tolist() == draws.words(200, 3, 1)[0].tolist()
    large = draws.words(200, 0, 20_000)  # more than one block
    assert np.array_equal(large[19_990:], draws.words(200, 19_990, 10))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_distributions(dtype: str) -> None:
    n = 200_000
    u, z, scaled = evaluate([
        gx.random_uniform((n,), dtype=dtype), gx.random_normal((n,), dtype=dtype),
        gx.random_normal((n,), mean=3, std=0.5, dtype=dtype),
    ])  # fmt: skip
    assert u.dtype == z.dtype == dtype
    assert u.min() >= 0
    assert u.max() < 1
    histogram = np.histogram(u, 20, (0, 1))[0]
    assert abs(histogram - n / 20).max() < 5 * np.sqrt(n / 20)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z.astype("f8") ** power).mean() - moment) < 5 * np.sqrt(variance / n)
    assert abs(scaled.mean() - 3) < 5 * 0.5 / np.sqrt(n)
    assert abs(scaled.std() - 0.5) < 0.01
    lag = np.corrcoef(z[:-1], z[1:])[0, 1]
    assert abs(lag) < 5 / np.sqrt(n)


def test_a_normal_draw_is_finite_for_every_word() -> None:
    words = np.array([[0, 0, 2**32 - 1, 2**32 - 1]], np.uint32)
    for dtype in ("float32", "float64"):
        record = OPS["normal"]
        assert record.eval is not None
        drawn = record.eval(np, words, shape=(4,), dtype=np.dtype(dtype), identity=0)
        assert np.isfinite(drawn).all()


def test_bernoulli_compares_integers() -> None:
    n = 40_001  # no whole number of groups
    for p in (0.0, 0.3, 1.0):
        node = gx.bernoulli((n,), p)
        (mask,) = evaluate([node])
        assert mask.dtype == bool
        assert mask.shape == (n,)
        raw = Draws(0, 0, {node.attr("identity"): 0}).words(
            node.attr("identity"), 0, group_count(n)
        )
        assert np.array_equal(mask, ((raw >> 8) < round(p * 2**24)).reshape(-1)[:n])
        assert abs(mask.mean() - p) <= 5 * np.sqrt(p * (1 - p) / n)


def test_each_draw_has_its_own_number_in_order_of_declaration() -> None:
    a, b = gx.random_uniform((4,)), gx.random_uniform((4,))
    assert list(number_draws(topological([b - a])).values()) == [0, 1]
    first, second = evaluate([a, b])
    assert not np.array_equal(first, second)
    assert np.array_equal(evaluate([a - a])[0], np.zeros(4))
    again = gx.random_uniform((4,))
    assert np.array_equal(evaluate([again])[0], evaluate([a])[0])  # each alone is draw number 0


def test_steps_and_seeds_differ() -> None:
    node = gx.random_normal((50,))
    numbers = number_draws([*topological([node])])
    streams = [evaluate([node], draws=Draws(s, t, numbers))[0] for s in (0, 1) for t in (0, 1)]
    assert len({stream.tobytes() for stream in streams}) == 4


def test_dropout_uses_one_mask_forward_and_backward() -> None:
    x = gx.param("x", np.linspace(1, 2, 1000).astype("f4"))
    for form, factor in (("inverted", 4), ("classic", 1)):
        y = gx.dropout(x, 0.25, form=form)
        value, slope = evaluate([y, gx.grad(y.sum(), x)])
        assert np.array_equal(value != 0, slope != 0)
        assert set(slope.tolist()) == {0.0, factor}
        np.testing.assert_allclose(value, x.value * slope, rtol=1e-6)
        assert 150 < np.count_nonzero(slope) < 350
        drawn = [n for n in topological([y, gx.grad(y.sum(), x)]) if n.op.kind is Kind.RANDOM]
        assert len(drawn) == 1
    assert evaluate([gx.dropout(x, 1.0)])[0].tolist() == x.value.tolist()


def test_scaled_draws_have_gradients() -> None:
    mean, std = gx.param("mean", np.array(0.5)), gx.param("std", np.array([1.0, 2.0, 3.0]))
    z = gx.random_normal((4, 3), mean, std, dtype="float64")
    check_grads(z * z, [mean, std], {})
    u = gx.random_uniform((4, 3), mean, std, dtype="float64")
    check_grads(u * u, [mean, std], {})


def test_shapes() -> None:
    for shape in ((), (0,), (1,), (5,), (2, 3, 4)):
        for node in (gx.random_uniform(shape), gx.random_normal(shape), gx.bernoulli(shape, 0.5)):
            assert evaluate([node])[0].shape == shape
    symbolic = gx.random_normal(("n", 3))
    assert Graph.of({"y": symbolic}).symbols == {"n"}
    assert gx.random_uniform((1000,), -2, -1).shape == (1000,)
    low = evaluate([gx.random_uniform((1000,), -2, -1)])[0]
    assert low.min() >= -2
    assert low.max() <= -1


def test_random_records() -> None:
    kinds = [op for op in OPS.values() if op.kind is Kind.RANDOM]
    assert len(kinds) == 3
    assert all(not op.vjp and op.cost >= 4 for op in kinds)
