"""Checkpoints: whole or absent, verified, never executed."""

import json
import os
import pickle
import shutil

import pytest
import torch

from act_engine.models import build_model, load_weights
from act_engine.models.finite import non_finite
from act_engine.training import checkpoint


def tensors(value):
    return {"robust": {"weight": torch.full((3, 5), float(value)), "count": torch.tensor(value)}}


def save(root, step, keep=2):
    return checkpoint.save(root, step, tensors(step), {"step": step}, keep)


def load(root):
    warnings = []
    folder = checkpoint.find_newest(root, warnings.append)
    return folder and checkpoint.load(folder), warnings


def test_newest_comes_back_and_older_ones_are_dropped(tmp_path):
    for step in (5, 10, 100):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-100"]
    (loaded, values), warnings = load(tmp_path)
    assert values == {"step": 100}
    assert torch.equal(loaded["robust"]["weight"], torch.full((3, 5), 100.0))
    assert loaded["robust"]["count"].item() == 100
    assert warnings == []


def test_no_checkpoint_is_none(tmp_path):
    assert load(tmp_path / "nothing") == (None, [])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, truncate, os.remove])
@pytest.mark.parametrize("name", ["robust.safetensors", "state.json", "manifest.json"])
def test_any_damage_is_noticed_and_the_one_before_is_used(tmp_path, damage, name):
    save(tmp_path, 1)
    damage(save(tmp_path, 2) / name)
    (_, values), warnings = load(tmp_path)
    assert values == {"step": 1}
    (warning,) = warnings
    assert "step-2" in warning


def test_no_whole_checkpoint_is_one_clear_line(tmp_path):
    truncate(save(tmp_path, 1) / "state.json")
    with pytest.raises(ValueError, match="none of its 1 checkpoints is whole, with finite weights; remove the folder"):
        load(tmp_path)


def test_a_write_that_fails_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    assert load(tmp_path)[0][1] == {"step": 1}


def test_a_partial_folder_left_by_a_kill_is_no_checkpoint(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".step-2.partial").mkdir()
    assert load(tmp_path)[0][1] == {"step": 1}
    save(tmp_path, 2)
    assert load(tmp_path)[0][1] == {"step": 2}


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_pickle_bomb_executes_nothing(tmp_path, suffix):
    weights, mark = tmp_path / f"weights{suffix}", tmp_path / "executed"
    weights.write_bytes(pickle.dumps({"fc.weight": Bomb(str(mark))}, protocol=2))
    model = build_model("small_cnn", num_classes=10, image_shape=(1, 8, 8))
    with pytest.raises(ValueError, match="not plain weights"):
        load_weights(model, weights)
    folder = save(tmp_path / "checkpoints", 1)
    (folder / "robust.safetensors").write_bytes(weights.read_bytes())
    with pytest.raises(ValueError, match="whole"):
        load(tmp_path / "checkpoints")
    assert not mark.exists()


def test_weights_that_do_not_fit_are_named(tmp_path):
    model = build_model("small_cnn", num_classes=10, image_shape=(1, 8, 8))
    other = build_model("small_cnn", num_classes=3, image_shape=(1, 8, 8))
    torch.save(other.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"fc\.bias is \(3,\), the model's \(10,\)"):
        load_weights(model, tmp_path / "weights.pt")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    load_weights(model, tmp_path / "weights.pt")


def test_tensors_that_share_storage_are_saved(tmp_path):
    weight = torch.arange(6.0)
    checkpoint.export_weights(tmp_path / "tied.safetensors", {"a": weight, "b": weight.view(2, 3)})
    assert (tmp_path / "tied.safetensors").exists()
    assert json.loads((save(tmp_path, 1) / "state.json").read_text()) == {"step": 1}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_tensors_that_are_not_finite_are_found(bad, dtype):
    """Wherever the one bad value stands; integers are finite, and so is a mask of 0 and −inf."""
    found = {}
    for place in (0, 5, 6):
        found[place] = torch.linspace(-2, 3, 7).to(dtype)
        found[place][place] = bad
    fine = {"ends": torch.tensor([torch.finfo(dtype).max, torch.finfo(dtype).min], dtype=dtype)}
    fine |= {"none": torch.empty(0, 3, dtype=dtype), "count": torch.tensor(3), "layout": torch.ones(3, 4).t()}
    fine["mask"] = torch.full((3, 3), -torch.inf, dtype=dtype).triu(1)
    names = {f"bad {place}": tensor for place, tensor in found.items()}
    assert non_finite(fine | names) == list(names)


def test_nothing_that_is_not_finite_is_saved_or_exported(tmp_path):
    save(tmp_path, 1)
    poisoned = tensors(2)
    poisoned["robust"]["momentum_buffer.weight"] = torch.tensor([1.0, float("nan")])
    with pytest.raises(
        checkpoint.NonFiniteWeights, match=r"step 2: the robust model's momentum_buffer.weight holds NaN"
    ):
        checkpoint.save(tmp_path, 2, poisoned, {"step": 2}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    with pytest.raises(checkpoint.NonFiniteWeights, match=r"robust.safetensors: the model's weight holds NaN"):
        checkpoint.export_weights(tmp_path / "robust.safetensors", {"weight": torch.tensor(float("inf"))})
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def test_a_whole_checkpoint_that_is_not_finite_is_passed_over(tmp_path, monkeypatch):
    """Such as an older version of this code left."""
    save(tmp_path, 1)
    with monkeypatch.context() as old:
        old.setattr(checkpoint, "require_finite", lambda *_: None)
        poisoned = tensors(2)
        poisoned["robust"]["weight"][1, 1] = float("nan")
        checkpoint.save(tmp_path, 2, poisoned, {"step": 2}, keep=2)
    (_, values), warnings = load(tmp_path)
    assert values == {"step": 1}
    (warning,) = warnings
    assert "step-2" in warning
    assert "robust: weight holds NaN or infinity (1 tensors in all)" in warning
    shutil.rmtree(tmp_path / "step-1")
    with pytest.raises(ValueError, match="none of its 1 checkpoints is whole, with finite weights"):
        load(tmp_path)
