"""A model that writes into its input is trained on copies of the images; one that does not gets them as they are."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from act_engine.learners import Learner


class Normalises(nn.Module):
    def __init__(self, in_place):
        super().__init__()
        self.fc, self.in_place, self.seen = nn.Linear(12, 5), in_place, []

    def forward(self, x):
        self.seen.append(x.data_ptr())
        x = x.sub_(0.5).div_(0.25) if self.in_place else (x - 0.5) / 0.25
        return self.fc(x.flatten(1))


@pytest.mark.parametrize("recompute", ["none", "model"])
def test_images_stay_and_gradients_are_those_of_a_model_that_does_not_write(recompute, seeded):
    plain = Normalises(False)
    writing = copy.deepcopy(plain)
    writing.in_place = True
    images, labels = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 3])
    before = images.clone()
    expected = F.cross_entropy(plain(images), labels)
    expected.backward()
    learner = Learner(writing, lr_at=lambda step: 0.1, recompute=recompute)
    for _ in range(2):
        loss = F.cross_entropy(learner(images), labels)
        learner.backward(loss)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(writing.fc.weight.grad, plain.fc.weight.grad)
        learner.optimizer.zero_grad()
    assert torch.equal(images, before)


def test_images_are_copied_once_where_nothing_is_written(seeded):
    model, images = Normalises(False), torch.rand(4, 3, 2, 2)
    learner = Learner(model, lr_at=lambda step: 0.1)
    for _ in range(3):
        learner(images)
    first, *others = model.seen
    assert first != images.data_ptr()
    assert others == [images.data_ptr()] * 2
