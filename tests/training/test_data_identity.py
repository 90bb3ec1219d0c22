"""A run goes on, and is evaluated, with the data that it was started on, wherever that lies, and with no other."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from act_engine import evaluate, train
from act_engine.data.sample_tree import write_tree

SETTINGS = """
objective: {name: natural}
data: {name: npz, batch_size: 6}
model: {name: small_cnn}
optim: {schedule: constant}
train: {epochs: 2, device: cpu}
evaluate: {attack: none}
"""


def write(path: Path, *, seed: int = 0, classes: int = 3) -> Path:
    random = np.random.default_rng(seed)
    images, labels = random.integers(0, 256, (18, 8, 8, 3), dtype=np.uint8), np.arange(18) % classes
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, train_images=images, train_labels=labels, test_images=images[:6], test_labels=labels[:6])
    return path


def run(data: Path, output: Path, *more: str) -> int:
    settings = output.with_suffix(".yaml")
    settings.write_text(SETTINGS)
    return train.main(["--config", str(settings), "--data.path", str(data), "--output", str(output), *more])


def refused(capsys: pytest.CaptureFixture[str], call, words: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        call()
    assert exit_.value.code == 2
    assert words in capsys.readouterr().err


def test_a_run_keeps_to_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data, output = write(tmp_path / "a.npz"), tmp_path / "run"
    assert run(data, output, "--train.max_steps", "4") == 0
    recorded = json.loads((output / "data.json").read_text())
    assert recorded["train"]["counts"] == [6, 6, 6]
    assert recorded["test"]["images"] == 6
    moved = Path(shutil.move(data, tmp_path / "moved.npz"))
    write(data, seed=1)  # as many others in its place
    refused(capsys, lambda: run(data, output), f"the train images are not those of {output}: as many images of each")
    refused(capsys, lambda: evaluate.main([str(output)]), "the test images are not those of")
    (output / "data.json").unlink()
    refused(capsys, lambda: run(data, output), "the train images are not those of")  # the checkpoint knows them too
    assert run(moved, output) == 0
    assert "going on after step 4 of 6" in capsys.readouterr().out
    assert evaluate.main([str(output)]) == 0
    assert json.loads((output / "data.json").read_text()) == recorded


def test_a_moved_test_set_and_another_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The run's own images count as its evaluation; others are kept apart, and need classes of the run's."""
    tree, output = write_tree(tmp_path / "tree", classes=3, train=6, test=2, size=24), tmp_path / "run"
    files = ["--data.name", "image_folder", "--data.image_size", "16", "--data.index", "off"]
    assert run(tree, output, *files, "--train.epochs", "1") == 0
    first = (output / "evaluation.json").read_text()
    moved = Path(shutil.move(tree, tmp_path / "moved"))
    refused(capsys, lambda: evaluate.main([str(output)]), "there is no folder")
    assert evaluate.main([str(output), "--data.path", str(moved)]) == 0
    assert (output / "evaluation.json").read_text() == first
    other = Path(shutil.copytree(moved / "train", tmp_path / "natural-adversarial"))
    shutil.rmtree(other / "class_0")  # fewer classes: those that are left keep their labels
    assert evaluate.main([str(output), "--data.path", str(other)]) == 0
    assert "they are measured as another test set" in capsys.readouterr().out
    measured = json.loads((output / "evaluation_natural-adversarial.json").read_text())
    assert measured["samples"] == 12
    assert measured["models"]["natural"]["per_class"]["clean_accuracy"][0] is None
    assert (output / "evaluation.json").read_text() == first
    numbered = Path(shutil.copytree(other, tmp_path / "numbered"))  # as ImageNet-V2's folders are
    for number in (1, 2):
        (numbered / f"class_{number}").rename(numbered / str(number))
    assert evaluate.main([str(output), "--data.path", str(numbered), "--also", str(other)]) == 0
    again = json.loads((output / "evaluation_numbered.json").read_text())
    assert again["models"]["natural"]["per_class"] == measured["models"]["natural"]["per_class"]
    assert again["models"]["natural"]["on_natural-adversarial_accuracy"] == again["models"]["natural"]["clean_accuracy"]
    assert (output / "evaluation.json").read_text() == first
    words = ["--model.weights", str(output / "natural.safetensors"), *files, "--data.path", str(other)]
    words += ["--eps", "1/255", "--attack", "none"]
    refused(capsys, lambda: evaluate.main(words), "or --class_names, where it holds test images alone")
    (tmp_path / "names.txt").write_text("class_0\nclass_1\nclass_2\n")
    for names in (tmp_path / "names.txt", moved / "train"):
        place = tmp_path / f"by-{names.name}"
        assert evaluate.main([*words, "--class_names", str(names), "--output", str(place)]) == 0
        foreign = json.loads((place / "evaluation.json").read_text())["models"]["model"]
        assert foreign["per_class"]["clean_accuracy"] == measured["models"]["natural"]["per_class"]["clean_accuracy"]
    refused(capsys, lambda: evaluate.main([*words, "--output", str(tmp_path / "names.txt")]), "--output: got")
    (other / "class_1").rename(other / "zebra")
    refused(capsys, lambda: evaluate.main([str(output), "--data.path", str(other)]), "the class folder 'zebra'")


def test_a_run_may_be_extended_where_its_schedule_does_not_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data, output = write(tmp_path / "a.npz"), tmp_path / "run"
    assert run(data, output, "--train.epochs", "1") == 0
    assert run(data, output, "--train.epochs", "2") == 0
    assert "going on after step 3 of 6" in capsys.readouterr().out
    cosine = ["--optim.schedule", "cosine"]
    assert run(data, tmp_path / "other", *cosine, "--train.epochs", "1") == 0
    refused(capsys, lambda: run(data, tmp_path / "other", *cosine), "train.epochs: 1 there, 2 here")


@pytest.mark.parametrize("content", ["", "{", '{"train": {"images": 3}}', "[1, 2]", "\0\0\0"])
def test_a_damaged_record_is_passed_over_and_written_anew(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data, output = write(tmp_path / "a.npz"), tmp_path / "run"
    run(data, output, "--train.max_steps", "3")
    whole = (output / "data.json").read_text()
    (output / "data.json").write_text(content)
    assert run(data, output) == 0
    said = capsys.readouterr().out
    assert said.count(f"warning: {output / 'data.json'}") == said.count("the data is not compared with it") == 1
    assert (output / "data.json").read_text() == whole


def test_an_image_that_was_replaced_in_mid_run_is_named_in_the_runs_data(tmp_path: Path):
    tree, output = write_tree(tmp_path / "tree", classes=3, train=6, test=2, size=24), tmp_path / "run"
    picture = tree / "train" / "class_1" / "0002.jpg"
    content = bytearray(picture.read_bytes())
    table = content.index(b"\xff\xc4") + 5  # a Huffman table that no image has: neither head nor tail says so
    content[table : table + 16] = bytes([255] * 16)
    picture.write_bytes(content)
    files = ["--data.name", "image_folder", "--data.image_size", "16", "--data.index", "off"]
    files += ["--data.bad_images", "skip"]
    assert run(tree, output, *files, "--train.epochs", "1") == 0
    first = json.loads((output / "data.json").read_text())
    assert list(first["train"]["replaced"]) == [str(picture)]
    assert "replaced" not in first["test"]
    assert run(tree, output, *files, "--train.epochs", "1") == 0  # nothing is left to do, and nothing forgotten
    assert json.loads((output / "data.json").read_text()) == first
