import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from convbody.classification.loss import cross_entropy, mixup, target_maker
from registry import ConfigError, load_cfg

SMOOTHING = "MODEL.CLASSIFIER.LABEL_SMOOTHING"


def config(mass=0.0, over="all", classes=4):
    keys = (f"{SMOOTHING}.MASS", mass, f"{SMOOTHING}.OVER", over, "MODEL.CLASSIFIER.NUM_CLASSES", classes)
    return load_cfg(None, list(keys))


@given(mass=st.floats(0, 0.9), classes=st.integers(2, 7), seed=st.integers(0, 100))
def test_over_all_classes_it_is_what_torch_does(mass, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, classes, generator=generator)
    labels = torch.randint(classes, (5,), generator=generator)
    loss = cross_entropy(logits, target_maker(config(mass, "all", classes))(labels))
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels, label_smoothing=mass))


def test_the_older_convention_leaves_its_own_class_the_rest():
    targets = target_maker(config(0.3, "others"))(torch.tensor([2, 0]))
    torch.testing.assert_close(targets, torch.tensor([[0.1, 0.1, 0.7, 0.1], [0.7, 0.1, 0.1, 0.1]]))


@given(alpha=st.floats(0.1, 4.0), seed=st.integers(0, 1000))
def test_mixup_mixes_images_and_targets_by_the_same_share(alpha, seed):
    torch.manual_seed(seed)
    images, targets = torch.eye(6)[:, :, None, None], torch.eye(6)
    mixed, wanted = mixup(images, targets, alpha)
    torch.testing.assert_close(mixed[:, :, 0, 0], wanted)
    torch.testing.assert_close(wanted.sum(1), torch.ones(6))
    mixed_ones = wanted.diagonal()[wanted.diagonal() < 1]  # others were mixed with themselves
    torch.testing.assert_close(mixed_ones, mixed_ones[:1].expand_as(mixed_ones))


@pytest.mark.parametrize(
    ("cfg", "key"),
    [
        (lambda: config(1.0), f"{SMOOTHING}.MASS"),
        (lambda: config(0.1, "torch"), f"{SMOOTHING}.OVER"),
        (lambda: config(classes=1), "MODEL.CLASSIFIER.NUM_CLASSES"),
    ],
)
def test_a_mistake_names_the_key(cfg, key):
    with pytest.raises(ConfigError, match=key):
        target_maker(cfg())
