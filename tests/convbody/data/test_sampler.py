from collections import Counter
from itertools import count, islice, takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbody.data.sampler import BatchPlan, Draw, aspect_groups, mix_seed

groupings = st.lists(st.integers(0, 1), min_size=1, max_size=40)
batch_sizes = st.integers(1, 9)
seeds = st.integers(-(2**63), 2**63)


def images(batches: list[list[Draw]]) -> list[int]:
    return [draw.image for batch in batches for draw in batch]


@given(groupings, batch_sizes, seeds, st.integers(1, 20))
def test_no_image_comes_again_before_all_of_its_group_came(groups, batch_size, seed, epochs):
    plan = BatchPlan(groups, batch_size, seed)
    batches = [plan.batch(number) for number in takewhile(lambda n: plan.epoch_of(n) < epochs, count())]
    seen = Counter(images(batches))
    for group in set(groups):
        members = [image for image, g in enumerate(groups) if g == group]
        # What does not fill a batch is handed out with the next epoch, not dropped.
        handed_out = epochs * len(members) // batch_size * batch_size
        assert sum(seen[image] for image in members) == handed_out
        assert {seen[image] for image in members} <= {
            handed_out // len(members),
            -(-handed_out // len(members)),
        }


@given(groupings, batch_sizes, seeds)
def test_without_leftovers_an_epoch_is_a_permutation(groups, batch_size, seed):
    groups = [0] * (batch_size * len(groups))
    batches = list(islice(BatchPlan(groups, batch_size, seed).batches_from(0), 2 * len(groups) // batch_size))
    half = len(batches) // 2
    for epoch in (batches[:half], batches[half:]):
        assert sorted(images(epoch)) == list(range(len(groups)))


@given(groupings, batch_sizes, seeds, st.integers(0, 200))
def test_starting_at_a_batch_is_going_on_from_it(groups, batch_size, seed, start):
    whole = list(islice(BatchPlan(groups, batch_size, seed).batches_from(0), start + 5))
    assert list(islice(BatchPlan(groups, batch_size, seed).batches_from(start), 5)) == whole[start:]


@given(groupings, batch_sizes, seeds)
def test_a_batch_is_full_and_of_one_group(groups, batch_size, seed):
    for batch in islice(BatchPlan(groups, batch_size, seed).batches_from(0), 20):
        assert len(batch) == batch_size
        assert len({groups[draw.image] for draw in batch}) == 1


@given(groupings, st.integers(1, 4), st.integers(1, 3), seeds)
def test_the_shares_of_all_processes_are_the_batch(groups, processes, share, seed):
    plan = BatchPlan(groups, processes * share, seed)
    streams = [plan.batches_from(3, rank, processes) for rank in range(processes)]
    for number in range(3, 8):
        parts = [next(stream) for stream in streams]
        assert [draw for part in parts for draw in part] == plan.batch(number)


def test_epochs_and_seeds_shuffle_differently():
    plan, other = BatchPlan([0] * 50, 50, 1), BatchPlan([0] * 50, 50, 2)
    orders = [tuple(d.image for d in batch) for batch in (plan.batch(0), plan.batch(1), other.batch(0))]
    assert len(set(orders)) == 3
    assert orders[0] != tuple(range(50))


def test_every_draw_has_its_own_seed():
    draws = [draw for batch in islice(BatchPlan([0] * 10, 5, 0).batches_from(0), 40) for draw in batch]
    assert len({draw.seed for draw in draws}) == len(draws) == 200


def test_groups_take_turns():
    kinds = [
        batch[0].image < 32 for batch in islice(BatchPlan([0] * 32 + [1] * 32, 4, 0).batches_from(0), 16)
    ]
    assert kinds != sorted(kinds) and kinds != sorted(kinds, reverse=True)


def test_mixed_seeds_are_the_same_on_every_machine():
    assert mix_seed(0, 1, 2) == 3071860871404845570
    assert len({mix_seed(0, 1), mix_seed(1, 0), mix_seed(0, 2), mix_seed(-1, 1)}) == 4


def test_portrait_and_landscape_are_apart():
    assert aspect_groups([0.5, 1.0, 2.0, 0.99]) == [0, 1, 1, 0]


def test_no_images_is_an_error():
    with pytest.raises(ValueError, match="no images"):
        BatchPlan([], 4, 0)
