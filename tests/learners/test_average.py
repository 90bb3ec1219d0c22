"""The moving average of the weights: its decay, what it follows, and which model has one."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from act_engine.config import from_mapping
from act_engine.learners import Learner, deployed
from act_engine.training.trainer import Trainer


@pytest.mark.parametrize("decay", [0.25, 0.999])
def test_weights_and_statistics_follow_the_formula(decay, seeded):
    """min(decay, (1 + t) / (10 + t)) from t = 0 on: 0.25 is reached at the third step, 0.999 not within these."""
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2)).double()
    learner = Learner(model, lr_at=lambda step: 0.3, ema_decay=decay)
    expected = {key: value.clone() for key, value in learner.module.state_dict().items()}
    for t in range(6):
        learner.backward(learner(torch.rand(5, 1, 4, 4, dtype=torch.float64)).logsumexp(1).sum())
        learner.step()
        kept = min(decay, (1 + t) / (10 + t))
        for key, value in learner.module.state_dict().items():
            expected[key] = kept * expected[key] + (1 - kept) * value if value.is_floating_point() else value.clone()
    found = deployed(learner.state_dict()[0])
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-12, atol=1e-12)
    assert not torch.equal(found["1.running_var"], learner.module.state_dict()["1.running_var"])


def test_a_resumed_average_goes_on_where_it_was(seeded):
    images = [torch.rand(4, 6) for _ in range(5)]
    learners = [Learner(nn.Linear(6, 2), lr_at=lambda step: 0.3, ema_decay=0.9) for _ in range(2)]
    learners[1].load_state_dict(*learners[0].state_dict())
    for step, batch in enumerate(images):
        if step == 3:  # into a fresh one
            learners[1].load_state_dict(*learners[0].state_dict())
        for learner in learners[:1] if step < 3 else learners:
            learner.backward(learner(batch).logsumexp(1).sum())
            learner.step()
    states = [learner.state_dict()[0] for learner in learners]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[1][key], value) for key, value in states[0].items())


@pytest.mark.parametrize(("objective", "averaged"), [("natural", "natural"), ("act", "robust")])
def test_the_deployed_model_has_the_average(objective, averaged, tiny_config, tmp_path):
    settings = {
        **tiny_config,
        "objective": {"name": objective},
        "attack": {} if objective == "natural" else tiny_config["attack"],
        "train": {**tiny_config["train"], "ema": 0.9, "max_steps": 3},
        "evaluate": {"attack": "none"},
    }
    trainer = Trainer(from_mapping(settings), tmp_path / "run")
    assert trainer.run() == 0
    for name, learner in trainer.learners.items():
        tensors, _ = learner.state_dict()
        exported = load_file(tmp_path / "run" / f"{name}.safetensors")
        moved = not torch.equal(exported["fc.weight"], tensors["model.fc.weight"])
        assert moved == (name == averaged)
        assert torch.equal(exported["fc.weight"], tensors["ema.fc.weight" if moved else "model.fc.weight"])
