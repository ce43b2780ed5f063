"""The sampler's noise: the softmax is sampled, and the hash is the published one."""

import math
from collections import Counter

import torch

from actors.backends.gumbel import GumbelSampler, _mix, _uniform


def test_gumbel_noise_samples_the_softmax() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    draws = 4000
    sampler = GumbelSampler(list(range(draws)), temperature=1.0, top_p=1.0)
    picks = sampler(torch.zeros(draws, 1), logits.expand(draws, -1)).argmax(dim=-1)
    counts = Counter(picks.tolist())
    for token, probability in enumerate(logits.softmax(-1)[0].tolist()):
        spread = math.sqrt(probability * (1 - probability) / draws)
        assert abs(counts[token] / draws - probability) < 4.5 * spread


def test_top_p_keeps_the_smallest_set_that_holds_it() -> None:
    logits = torch.tensor([[1.0, 3.0, 0.0, 2.9]])
    sampler = GumbelSampler(list(range(500)), temperature=1.0, top_p=0.8)
    picks = sampler(torch.zeros(500, 1), logits.expand(500, -1)).argmax(dim=-1)
    assert set(picks.tolist()) == {1, 3}


def test_the_hash_is_splitmix64() -> None:
    # The first outputs of the reference implementation (Vigna, splitmix64.c) for the state 0.
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert _mix(0) == expected[0]
    uniform = _uniform([0], 3, torch.device("cpu"))[0]
    assert uniform.tolist() == [(word >> 40) / 2**24 for word in expected]


def test_rows_steps_and_tokens_are_independent() -> None:
    zeros = torch.zeros(64, 512)
    sampler = GumbelSampler(list(range(64)), temperature=1.0, top_p=1.0)
    first, second = (sampler(torch.zeros(64, 1), zeros) for _ in range(2))
    assert first.unique().numel() > 0.99 * first.numel()
    # 64 x 512 pairs: a correlation of unrelated numbers is below .025 but once in 100,000 times.
    pairs = [(first, second), (first[1:], first[:-1]), (first[:, 1:], first[:, :-1])]
    for one, other in pairs:
        both = torch.stack([one.flatten(), other.flatten()])
        assert abs(float(both.corrcoef()[0, 1])) < 0.025
    # mean and spread of the Gumbel distribution
    assert abs(float(first.mean()) - 0.5772) < 0.04
    assert abs(float(first.std()) - math.pi / 6**0.5) < 0.04


def test_the_noise_of_a_row_does_not_depend_on_its_neighbours() -> None:
    scores = torch.randn(3, 100, generator=torch.Generator().manual_seed(0))
    seeds = [5, 2**63 - 1, 0]
    together, alone = (GumbelSampler(s, 0.7, 1.0) for s in (seeds, seeds[1:2]))
    for _ in range(3):
        rows = together(torch.zeros(3, 1), scores)
        assert torch.equal(rows[1:2], alone(torch.zeros(1, 1), scores[1:2]))
