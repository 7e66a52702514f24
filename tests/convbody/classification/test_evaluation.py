import pytest
import torch
from torch import nn

from convbody.classification.data.loader import open_test_sets
from convbody.classification.evaluation import evaluate


class Ranking(nn.Module):
    """Gives the class of the brightest column or row, from 0, ``below`` others."""

    def __init__(self, below: int, classes: int = 10) -> None:
        super().__init__()
        self.below, self.classes = below, classes
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        images = images[:, 0]
        sums = torch.cat([images[:, :, :5].sum(1), images[:, :5].sum(2)], dim=1)
        order = sums.argmax(1, keepdim=True)
        place = (torch.arange(self.classes)[None] - order + self.below) % self.classes
        return -place.float()


@pytest.mark.parametrize(
    ("below", "top1", "top5"), [(0, 1.0, 1.0), (1, 0.0, 1.0), (4, 0.0, 1.0), (5, 0.0, 0.0)]
)
def test_where_the_right_class_ranks(cls_cfg, below, top1, top5):
    cfg = cls_cfg({"TEST.IMS_PER_BATCH": 7})
    assert evaluate(Ranking(below), cfg, open_test_sets(cfg)) == {"top1": top1, "top5": top5}


def test_several_sets_have_names(cls_cfg):
    cfg = cls_cfg({"DATASETS.TEST": ["bars_test", "bars_train"]})
    metrics = evaluate(Ranking(0), cfg, open_test_sets(cfg))
    assert metrics.keys() == {"bars_test/top1", "bars_test/top5", "bars_train/top1", "bars_train/top5"}
