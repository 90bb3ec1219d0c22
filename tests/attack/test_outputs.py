"""Which outputs of a model are taken for its logits, and which are an error in one line."""

import dataclasses
from collections import OrderedDict
from typing import NamedTuple

import pytest
import torch
from torch import nn

from act_engine.attack import AttackView, input_gradient


@dataclasses.dataclass
class Output:
    logits: torch.Tensor


class Named(NamedTuple):
    logits: torch.Tensor
    aux_logits: torch.Tensor


class Net(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.fc, self.form = nn.Linear(12, 5), form

    def forward(self, x):
        return self.form(self.fc(x.flatten(1)))


TAKEN = {
    "tensor": lambda z: z,
    "dict": lambda z: {"loss": None, "logits": z},
    "ordered dict": lambda z: OrderedDict(logits=z, hidden=z.relu()),
    "dataclass": Output,
    "named tuple": lambda z: Named(z, z * 2),
}
REFUSED = {
    "tuple": (lambda z: (z, z), "a tuple of 2"),
    "list": (lambda z: [z], "a list of 1"),
    "dict": (lambda z: {"out": z, "aux": z}, "'out', 'aux'"),
    "nothing": (lambda z: None, "NoneType"),
    "logits of no tensor": (lambda z: {"logits": z.tolist()}, "'logits'"),
    "maps": (lambda z: z[:, :, None, None], r"\[3, 5, 1, 1\] for 3 images"),
    "one number an image": (lambda z: z[:, 0], r"\[3\] for 3 images"),
    "one image too few": (lambda z: {"logits": z[1:]}, r"\[2, 5\] for 3 images"),
}


@pytest.mark.parametrize("form", TAKEN)
def test_logits_are_found(form, seeded):
    model, images = Net(TAKEN[form]), torch.rand(3, 3, 2, 2)
    view = AttackView(model)
    for _ in range(2):
        logits, gradient = input_gradient(view, images, torch.ones_like)
        torch.testing.assert_close(logits, model.fc(images.flatten(1)).detach())
        torch.testing.assert_close(gradient.flatten(1), model.fc.weight.sum(0).expand(3, -1))
    assert view.why_live is None


@pytest.mark.parametrize("form", REFUSED)
def test_the_rest_is_an_error_that_names_it(form):
    make, message = REFUSED[form]
    view = AttackView(Net(make))
    for _ in range(2):
        with pytest.raises(
            ValueError, match=f"^model: got an output .*{message}.*allowed: logits \\[3, classes\\]"
        ) as error:
            view(torch.rand(3, 3, 2, 2))
        assert "\n" not in str(error.value)
    assert view.why_live is None


def test_input_gradients_inside_inference_mode(seeded):
    model = Net(TAKEN["tensor"])
    with torch.inference_mode():
        images = torch.rand(3, 3, 2, 2)
        view = AttackView(model)
        _, gradient = input_gradient(view, images, torch.ones_like)
    torch.testing.assert_close(gradient.flatten(1), model.fc.weight.detach().sum(0).expand(3, -1))


class WritesOneChannel(Net):
    def forward(self, x):
        return super().forward(x.sub_(0.5))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_callers_images_are_never_written(layout, channels, seeded):
    """A tensor of one channel, or one in channels_last already, needs no copy to be in the view's layout."""
    model = WritesOneChannel(TAKEN["tensor"])
    model.fc = nn.Linear(channels * 4, 5)
    images = torch.rand(3, channels, 2, 2).contiguous(memory_format=layout)
    before = images.clone()
    expected = model.fc((images - 0.5).flatten(1)).detach()
    view = AttackView(model)
    for _ in range(3):
        torch.testing.assert_close(view(images).detach(), expected)
        torch.testing.assert_close(input_gradient(view, images, torch.ones_like)[0], expected)
    assert torch.equal(images, before)
    assert view.why_live is None
