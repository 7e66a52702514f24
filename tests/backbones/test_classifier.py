import pytest
import torch
import torch.nn.functional as F

from backbones import Classifier


@pytest.mark.parametrize("name", ["R-18", "R-18-FPN"])
def test_logits_loss_and_probabilities_of_any_backbone(published, name):
    torch.manual_seed(0)
    model = Classifier(published.build(name), 5).eval()
    images, labels = torch.rand(3, 3, 64, 75), torch.tensor([0, 4, 2])
    logits = model(images)
    assert logits.shape == (3, 5)
    pooled = model.backbone(images)[-1].mean((2, 3))
    torch.testing.assert_close(logits, pooled @ model.fc.weight.T + model.fc.bias)
    torch.testing.assert_close(model.predict(images), logits.softmax(1))
    torch.testing.assert_close(model(images, labels), F.cross_entropy(logits, labels))
    model(images, labels).backward()
    assert model.fc.weight.grad.any()


def test_images_of_one_channel_where_the_body_takes_them(published):
    model = Classifier(published.build("TResNet-M", "MODEL.TRESNETS.IN_CHANNELS", 1), 10).eval()
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)
