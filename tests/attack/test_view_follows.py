"""The attack view follows the live model in all that its forward reads, and copies whatever can be copied."""

import copy
import dataclasses
import threading
import types
import warnings

import numpy as np
import odd_models as odd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize, prune

from act_engine.attack import Attack, AttackView, LiveView


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*attacked", UserWarning)
        yield


@dataclasses.dataclass
class Settings:
    scale: float = 1.0


class Rich(odd.Base):
    """Reads one of each kind of thing that a module may hold."""

    def __init__(self):
        super().__init__()
        self.use_norm, self.scale, self.settings = True, 2.0, Settings()
        self.powers, self.names, self.array = [1.0, 0.5], {"shift": 0.1}, np.ones(5)
        self.space = types.SimpleNamespace(inner={"deep": [3.0, {"deeper": 1.0}]})
        self.skipped: set[int] = set()
        self.activation = torch.relu
        self.plain, self.listed = torch.ones(5), [torch.ones(5), "text"]
        self.heads = [nn.Linear(6, 5)]  # not registered
        self.blocks = nn.ModuleList([nn.Linear(5, 5)])
        self.other, self.tied = nn.Linear(5, 5), nn.Linear(5, 5)
        self.tied.weight = self.other.weight

    def forward(self, x):
        out = self.conv(x)
        if self.use_norm:
            out = self.bn(out)
        pooled = self.activation(out).mean((2, 3))
        logits = self.fc(pooled) + self.heads[0](pooled)
        for block in self.blocks:
            logits = logits + block(logits)
        logits = self.tied(self.other(logits)) * self.scale * self.settings.scale + self.names["shift"]
        logits = logits * self.plain + self.listed[0] * sum(self.powers) + torch.from_numpy(self.array).to(x.dtype)
        logits = logits + self.space.inner["deep"][0] * self.space.inner["deep"][1]["deeper"]
        return logits * torch.tensor([0.0 if i in self.skipped else 1.0 for i in range(5)], dtype=x.dtype)


def hook(module, inputs, output):
    return output * 2


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Other(nn.Linear):
    def forward(self, x):
        return -super().forward(x)


CHANGES = {
    "flag": lambda m: setattr(m, "use_norm", False),
    "number": lambda m: setattr(m, "scale", 3.0),
    "number that equals": lambda m: setattr(m, "scale", 2),
    "dataclass": lambda m: setattr(m.settings, "scale", 3.0),
    "list": lambda m: m.powers.append(4.0),
    "dict": lambda m: m.names.update(shift=0.7),
    "array": lambda m: m.array.fill(7),
    "nested": lambda m: m.space.inner["deep"][1].update(deeper=9.0),
    "set": lambda m: m.skipped.add(3),
    "function": lambda m: setattr(m, "activation", torch.tanh),
    "plain tensor, another": lambda m: setattr(m, "plain", torch.full((5,), 3.0)),
    "plain tensor, in place": lambda m: m.plain.fill_(3),
    "plain tensor, of another shape": lambda m: setattr(m, "plain", torch.full((1,), 3.0)),
    "tensor in a list": lambda m: m.listed.__setitem__(0, torch.full((5,), 3.0)),
    "weight of an unregistered module": lambda m: nn.init.ones_(m.heads[0].weight),
    "unregistered module": lambda m: m.heads.__setitem__(0, nn.Linear(6, 5).double()),
    "replaced submodule": lambda m: setattr(m, "fc", nn.Linear(6, 5).double()),
    "one block more": lambda m: m.blocks.append(nn.Linear(5, 5).double()),
    "replaced BatchNorm": lambda m: setattr(m, "bn", nn.Identity()),
    "hook": lambda m: m.fc.register_forward_hook(hook),
    "pre-hook": lambda m: m.fc.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 3,)),
    "parametrization": lambda m: parametrize.register_parametrization(m.fc, "weight", Doubled()),
    "pruned": lambda m: prune.l1_unstructured(m.conv, "weight", 0.5),
    "parameter": lambda m: setattr(m.fc, "weight", nn.Parameter(torch.ones(5, 6).double())),
    "parameter, in place": lambda m: nn.init.ones_(m.conv.weight),
    "no bias any more": lambda m: setattr(m.fc, "bias", None),
    "untied": lambda m: setattr(m.tied, "weight", nn.Parameter(torch.ones(5, 5).double())),
    "class": lambda m: setattr(m.fc, "__class__", Other),
    "eps of a folded BatchNorm": lambda m: setattr(m.bn, "eps", 1.0),
    "statistics": lambda m: m.bn.running_mean.fill_(0.4),
}
SAME = ("number that equals",)


def rich():
    model = odd.randomise(Rich()).eval()
    model.heads[0].double()
    return model


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("within", ["ready", "a call"])
def test_a_change_is_seen(change, within, seeded):
    model, images = rich(), torch.rand(3, 3, 6, 6, dtype=torch.float64)
    view = AttackView(model)
    before = view(images)
    with torch.no_grad():
        CHANGES[change](model)
    if within == "ready":
        with view.ready():
            found = view(images)
    else:
        found = view(images)
    expected = model(images)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(before, expected) == (change in SAME) or not torch.allclose(before, expected, atol=1e-3)
    assert view.why_live is None


def test_writes_through_data_are_seen_by_ready(seeded):
    model, images = odd.randomise(odd.Base()).eval(), torch.rand(3, 3, 6, 6, dtype=torch.float64)
    view = AttackView(model)
    model.fc.weight.data.mul_(2)
    with view.ready():
        torch.testing.assert_close(view(images), model(images), rtol=1e-12, atol=1e-12)


def test_two_calls_share_one_backward_pass(seeded):
    """Nothing was written to in between, so nothing is taken over, which would break the first call's graph."""
    model = odd.randomise(odd.Base()).eval()
    view, images = AttackView(model), torch.rand(3, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad((view(images) * view(images * 0.9)).sum(), images)
    (expected,) = torch.autograd.grad((model(images) * model(images * 0.9)).sum(), images)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


class Caches(odd.Base):
    """Keeps in eval mode what it made of its weights, until it is put in train mode again."""

    def __init__(self):
        super().__init__()
        self.cache, self.made = {}, []

    def train(self, mode=True):
        if mode:
            self.cache, self.made = {}, []
        return super().train(mode)

    def forward(self, x):
        if self.training or "gate" not in self.cache:
            self.cache["gate"] = self.fc.weight.mean(0).sigmoid()
            self.made.append(1)
        return self.fc(self.features(x).mean((2, 3)) * self.cache["gate"])


@pytest.mark.parametrize("live", [False, True])
def test_what_a_pass_keeps_is_not_kept_for_other_weights(live, seeded):
    model, images = odd.randomise(Caches()), torch.rand(3, 3, 6, 6, dtype=torch.float64)
    view = LiveView(model, model) if live else AttackView(model)
    for _ in range(3):
        nn.init.normal_(model.fc.weight)
        with view.ready():
            found = view(images)
        assert (model.cache, model.made) == ({}, [])
        expected = copy.deepcopy(model).eval()(images)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert live or view.generation == 1


def attack_on(view):
    settings = {"kl_weight": 0.0, "ce_weight": 1.0, "start": "none", "steps": 2, "step_size": 0.05, "eps": 0.1}
    return Attack(view, generator=torch.Generator(), **settings)


class Restless(odd.Base):
    """Its scale is another after each step of training."""

    scale = 1.0

    def forward(self, x):
        if self.training:
            self.scale = self.scale * 1.1
        return super().forward(x) * self.scale


def test_a_model_that_changes_at_every_step_is_attacked_itself(seeded):
    model, images, labels = odd.randomise(Restless()), torch.rand(3, 3, 6, 6).double(), torch.zeros(3).long()
    attack, optimizer = attack_on(AttackView(model)), torch.optim.SGD(model.parameters(), 0.1)
    said = []
    for _ in range(10):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            attack(images, labels)
            torch.testing.assert_close(
                attack.clean_logits(images), copy.deepcopy(model).eval()(images), rtol=1e-12, atol=1e-12
            )
        said += [str(one.message) for one in caught if one.category is UserWarning]
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert len(said) == 1
    assert "changes from step to step (scale)" in said[0]
    assert model.scale == pytest.approx(1.1**10)  # the attack's passes are in eval mode


class Keeps(odd.Base):
    """Keeps its activations, the later with their graph, as attributes."""

    def forward(self, x):
        self.maps = self.features(x)
        self.seen = [self.maps.detach(), self.maps.mean((2, 3))]
        return self.fc(self.seen[1])


def pruned():
    model = odd.Base()
    prune.l1_unstructured(model.conv, "weight", 0.5)
    return model


def weight_norm():
    model = odd.Base()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(model.conv)
        nn.utils.spectral_norm(model.fc)
    return model


def parametrized():
    model = odd.Base()
    nn.utils.parametrizations.weight_norm(model.conv)
    nn.utils.parametrizations.spectral_norm(model.fc)
    return model


class Video(nn.Module):
    """Convolutions in three dimensions, of which the first is the images' channels."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.bn(self.conv(x.unsqueeze(1))).relu().mean((2, 3, 4)))


COPIED = {"keeps": Keeps, "pruned": pruned, "weight norm": weight_norm, "parametrized": parametrized, "video": Video}


@pytest.mark.parametrize("kind", COPIED)
def test_models_that_are_hard_to_copy_are_copied_and_followed(kind, seeded):
    model, images = odd.randomise(COPIED[kind]()), torch.rand(3, 3, 6, 6, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    view = None
    for _ in range(3):
        F.cross_entropy(model(images), torch.tensor([0, 1, 2])).backward()  # leaves tensors with a graph in the model
        optimizer.step()
        view = view or AttackView(model)
        twin = kind_in_eval_mode(model, images)
        torch.testing.assert_close(view(images).detach(), twin, rtol=1e-10, atol=1e-12)
        assert view.why_live is None
    assert bool(view.folded) == (kind in ("keeps", "video"))


def kind_in_eval_mode(model, images):
    training = model.training
    buffers = copy.deepcopy(dict(model.named_buffers()))
    with torch.no_grad():
        logits = model.eval()(images)
    model.train(training)
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    return logits


def test_clips_of_five_dimensions(seeded):
    model = odd.randomise(nn.Sequential(nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), nn.Flatten(), nn.LazyLinear(5)))
    clips = torch.rand(3, 2, 4, 6, 6, dtype=torch.float64)
    expected = model.eval()(clips)
    view = AttackView(model)
    torch.testing.assert_close(view(clips), expected, rtol=1e-10, atol=1e-12)
    assert len(view.folded) == 1


class Locked(odd.Base):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class SharesItself(odd.Base):
    """Says that it is its own copy; switching the copy to eval mode would switch the model."""

    def __deepcopy__(self, memo):
        return self


class SharesAPart(odd.Base):
    def __init__(self):
        super().__init__()
        self.part = SharesItself()

    def forward(self, x):
        return super().forward(x) + self.part(x)


def scripted():
    return torch.jit.script(odd.Base())


def half_scripted():
    return nn.Sequential(nn.Identity(), scripted())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", [Locked, SharesItself, SharesAPart, scripted, half_scripted])
def test_what_cannot_be_copied_is_attacked_itself(make, seeded):
    model, images = odd.randomise(make()), torch.rand(3, 3, 6, 6, dtype=torch.float64)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.warns(UserWarning, match="cannot be copied"):
        view = AttackView(model)
    expected = kind_in_eval_mode(model, images)
    adversarial = attack_on(view)(images, torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(view(images).detach(), expected, rtol=1e-12, atol=1e-12)
    assert 0.09 < (adversarial - images).abs().max() <= 0.1 + 1e-12
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_wrappers_are_taken_off(seeded, tmp_path):
    model, images = odd.randomise(odd.Base()).eval(), torch.rand(3, 3, 6, 6, dtype=torch.float64)
    expected = model(images)
    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        ddp = nn.parallel.DistributedDataParallel(model)
        wrapped = {
            "DDP": ddp,
            "DataParallel": nn.DataParallel(model),
            "compiled": torch.compile(model, backend="eager"),
            "both": torch.compile(ddp, backend="eager"),
            "inside": nn.Sequential(nn.Identity(), ddp, torch.compile(nn.Linear(5, 5).double(), backend="eager")),
        }
        for name, wrapper in wrapped.items():
            view = AttackView(wrapper)
            found = view(images)
            if name == "inside":
                expected = wrapper(images)
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
            assert len(view.folded) == 1
            with torch.no_grad():
                model.fc.bias.add_(1)
            torch.testing.assert_close(view(images), wrapper(images), rtol=1e-10, atol=1e-12)
            expected = model(images)
            assert view.why_live is None
    finally:
        torch.distributed.destroy_process_group()
