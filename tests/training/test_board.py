"""What TensorBoard shows of a run."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from act_engine.config import from_mapping
from act_engine.training.board import tag
from act_engine.training.trainer import Trainer


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("robust_loss", "loss/robust"),
        ("held_out_robust_accuracy", "accuracy/held_out_robust"),
        ("images_per_second", "speed/images_per_second"),
        ("profile/attack", "speed/profile/attack"),
        ("lr", "optim/lr"),
    ],
)
def test_every_metric_has_a_group(name, expected):
    assert tag(name) == expected


def test_scalars_texts_and_final_accuracies(tiny_config, tmp_path):
    tiny_config["checkpoint"] = {"best_every_epochs": 1, "best_steps": 1}
    tiny_config["evaluate"] |= {"images": 100, "steps": 1, "restarts": 1}
    tiny_config["train"] |= {"max_steps": 4}
    trainer = Trainer(from_mapping(tiny_config), tmp_path / "run")
    assert trainer.run() == 0
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    scalars = board.Tags()["scalars"]
    assert {tag.partition("/")[0] for tag in scalars} == {"loss", "accuracy", "speed", "optim"}
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    for name in ("robust_loss", "natural_loss", "lr", "held_out_robust_accuracy"):
        written = {event.step: event.value for event in board.Scalars(tag(name))}
        assert written == pytest.approx({r["step"]: r[name] for r in records if name in r}, rel=1e-6)  # float32 on disk
    (final,) = board.Scalars("accuracy/test_robust/robust")
    assert final.step == 4
    assert final.value == pytest.approx(trainer.evaluation["models"]["robust"]["robust_accuracy"], rel=1e-6)
    texts = {name: board.Tensors(name)[0].tensor_proto.string_val[0].decode() for name in board.Tags()["tensors"]}
    assert "    attack:\n" in texts["config/text_summary"]
    assert "act-engine" in texts["environment/text_summary"]
