"""Bad input at every door: exit code 2, one line that names the setting or file, no traceback, nothing half made.

The doors are called in this process. A wrong value of a setting is tried for all settings of all doors; what training
and the data sets read has tests of its own beside this one.
"""

import os
import shutil

import pytest
import torch
import yaml

import act_engine
import act_kernels
from act_engine import __main__ as command
from act_engine import analyze, doctor, evaluate, plan, report, study, train
from act_engine.config.help import settings_of
from act_engine.data import sample_tree

FOREIGN = ["--model.name", "small_cnn", "--model.weights", "{run}/robust.safetensors", "--eps", "0.1"]
DOORS = {
    "train": (train, ["--recipe", "digits", "--output", "{made}"]),
    "evaluate": (evaluate, ["{run}"]),
    "evaluate foreign": (evaluate, ["--model.name", "small_cnn", "--model.weights", "{run}/robust.safetensors"]),
    "analyze": (analyze, ["{run}", "--output", "{made}"]),
    "report": (report, ["{run}", "--output", "{made}"]),
    "study": (study, ["digits", "--output", "{made}"]),
    "plan": (plan, ["--recipe", "digits"]),
    "doctor": (doctor, []),
    "command": (command, []),
    "sample_tree": (sample_tree, ["{made}"]),
}
PAGES = {
    "evaluate": evaluate.Arguments,
    "evaluate foreign": evaluate.Foreign,
    "analyze": analyze.Arguments,
    "report": report.Arguments,
    "study": study.Arguments,
    "plan": plan.Arguments,
    "doctor": doctor.Arguments,
}
WRONG = {int: ("ten", "1.5", "1e300"), float: ("ten", "nan", "1/0"), bool: ("maybe",)}


def wrong_values(door, page):
    """(door, option, value) for every setting of numbers and choices."""
    for setting in settings_of(page):
        for kind in WRONG:
            if setting.kind in (kind, kind | None):
                yield from ((door, setting.name, value) for value in WRONG[kind])
        if "Literal" in str(setting.kind):
            yield door, setting.name, "of_no_such_kind"


VALUES = [case for door, page in PAGES.items() for case in wrong_values(door, page)]

WORDS = {
    # what is no run, or no whole one
    "evaluate nothing": ("evaluate", ["{none}"], "no such run"),
    "evaluate a file": ("evaluate", ["{none}/a.txt"], "is no run"),
    "analyze nothing": ("analyze", ["{none}"], "is no run"),
    "report nothing": ("report", ["{none}"], "is no run"),
    "report two": ("report", ["{run}", "{none}", "--output", "{made}"], "is no run"),
    "no run given to analyze": ("analyze", [], "RUN"),
    "no run given to report": ("report", [], "RUN"),
    "no run given to evaluate": ("evaluate", [], "RUN"),
    "plan by nothing": ("plan", ["--recipe", "digits", "--measured", "{none}"], "--measured"),
    # options
    **{f"unknown option of {door}": (door, None, "--no-such-thing") for door in DOORS if door != "command"},
    **{f"missing value of {door}": (door, "missing", "") for door in ("evaluate", "analyze", "report", "study")},
    "unknown command": ("command", ["trian"], "COMMAND"),
    "command with a bad option": ("command", ["doctor", "--tset"], "--tset"),
    "doctor's stray word": ("doctor", ["all"], "'all'"),
    "study of nothing": ("study", [], "STUDY"),
    "study unknown": ("study", ["digit"], "did you mean 'digits'"),
    "study's methods": ("study", ["digits", "--methods", "trade"], "--methods"),
    "study of no seeds": ("study", ["digits", "--seeds", "0"], "--seeds"),
    "study of no epochs": ("study", ["digits", "--epochs", "-1"], "--epochs"),
    "study by no jobs": ("study", ["digits", "--jobs", "0"], "--jobs"),
    "study into a file": ("study", ["digits", "--output", "{none}/a.txt"], "--output"),
    "study's results in a file": ("study", ["digits", "--output", "{made}", "--results", "{none}/a.txt"], "--results"),
    "plan without recipe": ("plan", [], "--recipe or --config"),
    "plan of both": ("plan", ["--recipe", "digits", "--config", "x.yaml"], "--recipe or --config"),
    "plan for no GPU": ("plan", ["--recipe", "digits", "--gpus", "0"], "--gpus"),
    "plan for none": ("plan", ["--recipe", "digits", "--gpus", "none"], "--gpus"),
    "plan for no speed": ("plan", ["--recipe", "digits", "--images-per-second", "0"], "--images-per-second"),
    "plan for no images": ("plan", ["--recipe", "digits", "--images", "0"], "--images"),
    "plan with two speeds": (
        "plan",
        ["--recipe", "digits", "--images-per-second", "9", "--measured", "{run}"],
        "--measured",
    ),
    "analyses unknown": ("analyze", ["{run}", "--analyses", "flat"], "'flatness'"),
    "analyses of few": ("analyze", ["{run}", "--samples", "3"], "--samples"),
    "analyses with noise": ("analyze", ["{run}", "--noise", "1.5"], "--noise"),
    "analyses of one class": ("analyze", ["{run}", "--classes", "1"], "--classes"),
    "analyses without rise": ("analyze", ["{run}", "--sigmas", "0.2", "0.1"], "--sigmas"),
    "analyses without draws": ("analyze", ["{run}", "--draws", "0"], "--draws"),
    "analyses by seed": ("analyze", ["{run}", "--seed", "-1"], "--seed"),
    "analyses into a file": ("analyze", ["{run}", "--output", "{none}/a.txt"], "--output"),
    "analyses of no checkpoint": ("analyze", ["{run}", "--output", "{made}", "--checkpoint", "step-7"], "--checkpoint"),
    "report of few": ("report", ["{run}", "--samples", "3"], "--samples"),
    "report into a file": ("report", ["{run}", "--output", "{none}/a.txt"], "--output"),
    "report of no checkpoint": ("report", ["{run}", "--output", "{made}", "--checkpoint", "first"], "--checkpoint"),
    "pictures of no class": ("sample_tree", ["{made}", "--classes", "0"], "--classes"),
    "pictures of size 0": ("sample_tree", ["{made}", "--size", "0"], "--size"),
    "pictures of huge size": ("sample_tree", ["{made}", "--size", "99999999"], "--size"),
    "pictures by a word": ("sample_tree", ["{made}", "--train", "many"], "--train"),
    "no pictures": ("sample_tree", ["{made}", "--test", "-1"], "--test"),
    "pictures nowhere": ("sample_tree", [], "output"),
    "shards of nothing": ("sample_tree", ["{made}", "--shards-from", "{none}/nowhere"], "nowhere"),
    "pictures into a file": ("sample_tree", ["{none}/a.txt"], "a.txt"),
    # evaluation's values
    "no radius": ("evaluate", ["{run}", "--eps", "-1"], "evaluate.eps"),
    "radius of 255": ("evaluate", ["{run}", "--eps", "8"], "did you mean 8/255"),
    "no restarts": ("evaluate", ["{run}", "--restarts", "0"], "evaluate.restarts"),
    "no batch": ("evaluate", ["{run}", "--batch-size", "0"], "evaluate.batch_size"),
    "huge batch": ("evaluate", ["{run}", "--batch-size", "100000000"], "evaluate.batch_size"),
    "no step": ("evaluate", ["{run}", "--step-size", "0"], "evaluate.step_size"),
    "all targets": ("evaluate", ["{run}", "--targets", "10"], "evaluate.targets"),
    "no seed": ("evaluate", ["{run}", "--seed", "-3"], "seed"),
    "corruption": ("evaluate", ["{run}", "--corruptions", "rain"], "corruptions"),
    "also nothing": ("evaluate", ["{run}", "--also", "{none}/nowhere.npz"], "nowhere.npz"),
    "also a text": ("evaluate", ["{run}", "--also", "{none}/a.txt"], "a.txt"),
    "weights of no kind": ("evaluate", ["{run}", "--checkpoint", "newest"], "--checkpoint"),
    "weights of no step": ("evaluate", ["{run}", "--checkpoint", "step-99"], "--checkpoint"),
    "data of no place": ("evaluate", ["{run}", "--data.path", "{none}/nowhere"], "data"),
    "transfer from nothing": ("evaluate", ["{run}", "--source", "{none}"], "is no run"),
    "export without AutoAttack": ("evaluate", ["{run}", "--export", "robustbench"], "--export"),
    "export of a look": (
        "evaluate",
        ["{run}", "--quick", "--export", "robustbench", "--attack", "autoattack"],
        "quick",
    ),
    "foreign without weights": ("evaluate", ["--model.name", "small_cnn", "--data.name", "digits"], "model.weights"),
    "foreign without radius": ("evaluate", ["--model.weights", "{run}/robust.safetensors"], "--eps"),
    "foreign nowhere": ("evaluate", ["--model.weights", "{none}/w.pt", "--eps", "0.1"], "w.pt"),
    "foreign text": ("evaluate", ["--model.weights", "{none}/a.txt", "--eps", "0.1"], "a.txt"),
    "foreign of another model": (
        "evaluate",
        ["--model.name", "cifar_resnet18", "--model.weights", "{run}/robust.safetensors", "--eps", "0.1"],
        "robust.safetensors",
    ),
    "foreign classes": (
        "evaluate",
        [*FOREIGN, "--class_names", "imagenet"],
        "--class_names",
    ),
    "foreign data": (
        "evaluate",
        [*FOREIGN, "--data.name", "npz", "--data.path", "{none}/nowhere.npz"],
        "nowhere.npz",
    ),
    # training's upper bounds
    "huge pictures": ("train", ["--recipe", "imagenet_resnet50", "--data.image_size", "1000000"], "data.image_size"),
    "huge sides": ("train", ["--recipe", "imagenet_resnet50", "--data.train_sizes", "64,99999"], "data.train_sizes"),
    "huge crop": ("train", ["--recipe", "imagenet_resnet50", "--data.eval_resize", "99999"], "data.eval_resize"),
    "huge batch of training": ("train", ["--recipe", "digits", "--data.batch_size", "1e9"], "data.batch_size"),
    "a number without end": ("train", ["--recipe", "digits", "--train.epochs", "1e300"], "train.epochs"),
    "workers": ("train", ["--recipe", "digits", "--data.workers", "1e6"], "data.workers"),
    "timeout": ("train", ["--recipe", "digits", "--parallel.timeout", "1e9"], "parallel.timeout"),
    "seed": ("train", ["--recipe", "digits", "--train.seed", "1e12"], "train.seed"),
}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run of one step, exported and not evaluated."""
    folder = tmp_path_factory.mktemp("doors") / "run"
    words = ["--recipe", "digits", "--train.max_steps", "1", "--attack.steps", "1", "--evaluate.attack", "none"]
    assert train.main([*words, "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def knock(run_folder, tmp_path, capsys, monkeypatch):
    """A function that calls a door with bad words and gives its one line."""
    none, made = tmp_path / "none", tmp_path / "made"
    none.mkdir()
    (none / "a.txt").write_text("precious")
    monkeypatch.chdir(none)

    def knock(door, words, run=run_folder):
        before = contents(run), contents(none)
        words = [word.format(run=run, none=none, made=made) for word in words]
        capsys.readouterr()
        try:
            code = DOORS[door][0].main(words)
        except SystemExit as ended:
            code = ended.code
        error = capsys.readouterr().err
        assert code == 2, (words, code, error)
        assert error.startswith("error: "), error
        assert error.count("\n") == 1, error
        assert len(error) < 1500
        assert "Traceback" not in error
        assert not made.exists()
        assert (contents(run), contents(none)) == before
        return error

    return knock


def contents(folder):
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("door", "name", "value"), VALUES)
def test_value_of_the_wrong_kind(door, name, value, knock):
    error = knock(door, [*DOORS[door][1], f"--{name}={value}"])
    assert name.rpartition(".")[2] in error.replace("-", "_")


@pytest.mark.parametrize("case", WORDS)
def test_words(case, knock):
    door, words, expected = WORDS[case]
    if words is None:
        words = [*DOORS[door][1], "--no-such-thing", "1"]
        expected = "no" if door == "sample_tree" else "no_such_thing"
    if words == "missing":
        words, expected = [*DOORS[door][1], "--device" if door != "study" else "--seeds"], "a value is missing"
    if expected == "no such run":
        expected = "is no run"
    assert expected in knock(door, words)


def spoil(name, content):
    def act(run):
        (run / name).write_bytes(content)

    return act


def drop(name):
    return lambda run: (run / name).unlink()


def pipe(name):
    def act(run):
        (run / name).unlink()
        os.mkfifo(run / name)

    return act


def edit(**changes):
    def act(run):
        config = yaml.safe_load((run / "config.yaml").read_text())
        for setting, value in changes.items():
            group, _, name = setting.partition("__")
            config[group][name] = value
        (run / "config.yaml").write_text(yaml.safe_dump(config))

    return act


def poison(run):
    from safetensors.torch import load_file, save_file

    state = load_file(run / "robust.safetensors")
    next(value for value in state.values() if value.is_floating_point()).fill_(float("nan"))
    save_file(state, run / "robust.safetensors")


RUNS = {
    "no config": (drop("config.yaml"), "config.yaml"),
    "empty config": (spoil("config.yaml", b"- 3"), "config.yaml"),
    "torn config": (spoil("config.yaml", b"attack: {steps: [3"), "config.yaml"),
    "UTF-16 config": (spoil("config.yaml", "attack: {}".encode("utf-16")), "config.yaml"),
    "NUL config": (spoil("config.yaml", b"attack: {}\0"), "config.yaml"),
    "config with a name twice": (spoil("config.yaml", b"attack: {steps: 3}\nattack: {eps: 0.1}"), "config.yaml"),
    "config that is a pipe": (pipe("config.yaml"), "config.yaml"),
    "newer setting": (edit(attack__newer=3), "attack.newer"),
    "another model": (edit(model__name="cifar_resnet18"), "robust.safetensors"),
    "no such model": (edit(model__name="cifar_resnet81"), "model.name"),
    "no such data": (edit(data__name="digit"), "data.name"),
    "no weights": (lambda run: [file.unlink() for file in run.glob("*.safetensors")], "exported no weights"),
    "torn weights": (lambda run: os.truncate(run / "robust.safetensors", 1000), "robust.safetensors"),
    "empty weights": (spoil("robust.safetensors", b""), "robust.safetensors"),
    "text as weights": (spoil("robust.safetensors", b"hello, hello"), "robust.safetensors"),
    "weights of NaN": (poison, "robust.safetensors"),
    "weights that are a pipe": (pipe("robust.safetensors"), "robust.safetensors"),
}


@pytest.mark.parametrize("door", ["evaluate", "report", "analyze"])
@pytest.mark.parametrize("case", RUNS)
def test_spoiled_run(case, door, knock, run_folder, tmp_path):
    run = tmp_path / "spoiled"
    shutil.copytree(run_folder, run)
    act, expected = RUNS[case]
    act(run)
    words = ["{run}"] if door == "evaluate" else ["{run}", "--output", "{made}"]
    assert expected in knock(door, words, run)


def nets(**names):
    return {
        name: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)) for name in names or ("robust", "natural")
    }


IMAGES = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0])
BATCHES = [(IMAGES, LABELS)]


def fit(models=None, batches=BATCHES, **options):
    settings = {"epochs": 1, "steps": 1, "progress": "none", "device": "cpu", **options}
    return act_engine.fit(models or nets(robust=1, natural=1), batches, **settings)


def robustness(model=None, batches=BATCHES, **options):
    settings = {"eps": 0.1, "steps": 1, "restarts": 1, "progress": "none", "check_masking": False, **options}
    return act_engine.robustness(model or nets(robust=1)["robust"], batches, **settings)


PYTHON = {
    "fit: no epochs": (lambda place: fit(epochs=0), "epochs"),
    "fit: radius": (lambda place: fit(eps=8), "did you mean 8/255"),
    "fit: NaN as radius": (lambda place: fit(eps=float("nan")), "eps"),
    "fit: steps": (lambda place: fit(steps=0), "steps"),
    "fit: step size": (lambda place: fit(step_size=-1.0), "step_size"),
    "fit: norm": (lambda place: fit(norm="l3"), "norm"),
    "fit: rate": (lambda place: fit(lr=0), "lr"),
    "fit: rate of text": (lambda place: fit(lr="fast"), "lr"),
    "fit: schedule": (lambda place: fit(schedule="cosin"), "schedule"),
    "fit: precision": (lambda place: fit(precision="int8"), "precision"),
    "fit: seed": (lambda place: fit(seed=-1), "seed"),
    "fit: device": (lambda place: fit(device="tpu"), "device"),
    "fit: objective": (lambda place: fit(objective="trade"), "objective"),
    "fit: settings": (lambda place: fit(settings={"attack": {"stepz": 3}}), "attack.stepz"),
    "fit: group": (lambda place: fit(settings={"atack": {}}), "atack"),
    "fit: progress": (lambda place: fit(progress="dots"), "progress"),
    "fit: one model for two": (lambda place: fit(nets(robust=1)["robust"]), "models"),
    "fit: names": (lambda place: fit(nets(robust=1, normal=1)), "models"),
    "fit: no batches": (lambda place: fit(batches=[]), "loader"),
    "fit: images of 255": (lambda place: fit(batches=[(IMAGES * 255, LABELS)]), "images"),
    "fit: labels of halves": (lambda place: fit(batches=[(IMAGES, LABELS + 0.5)]), "labels"),
    "fit: labels beyond": (lambda place: fit(batches=[(IMAGES, LABELS + 9)]), "label"),
    "fit: fewer labels": (lambda place: fit(batches=[(IMAGES, LABELS[:2])]), "labels"),
    "fit: arrays": (lambda place: fit(batches=[(IMAGES.numpy(), LABELS.numpy())]), "images"),
    "robustness: radius": (lambda place: robustness(eps=-0.1), "eps"),
    "robustness: radius of 255": (lambda place: robustness(eps=8.0), "did you mean 8/255"),
    "robustness: steps": (lambda place: robustness(steps=0), "steps"),
    "robustness: restarts": (lambda place: robustness(restarts=0), "restarts"),
    "robustness: attack": (lambda place: robustness(attack="pdg"), "attack"),
    "robustness: loss": (lambda place: robustness(loss="dl"), "loss"),
    "robustness: targets": (lambda place: robustness(targets=9), "targets"),
    "robustness: norm": (lambda place: robustness(norm="l3"), "norm"),
    "robustness: images": (lambda place: robustness(images=0), "images"),
    "robustness: corruption": (lambda place: robustness(corruptions=["rain"]), "corruptions"),
    "robustness: no batches": (lambda place: robustness(batches=[]), "loader"),
    "robustness: images of 255": (lambda place: robustness(batches=[(IMAGES * 255, LABELS)]), "images"),
    "robustness: NaN": (lambda place: robustness(batches=[(IMAGES * float("nan"), LABELS)]), "images"),
    "robustness: labels": (lambda place: robustness(batches=[(IMAGES, LABELS + 9)]), "labels"),
    "robustness: one-hot": (lambda place: robustness(batches=[(IMAGES, torch.eye(4, 3))]), "labels"),
    "robustness: no logits": (lambda place: robustness(torch.nn.Identity()), "model"),
    "load_model: nowhere": (lambda place: act_engine.load_model(place / "w.safetensors"), "w.safetensors"),
    "load_model: text": (lambda place: act_engine.load_model(place / "a.txt"), "a.txt"),
    "load_model: folder": (lambda place: act_engine.load_model(place), "{place}"),
    "load_weights: text": (lambda place: act_engine.load_weights(nets()["robust"], place / "a.txt"), "a.txt"),
    "load_weights: others": (
        lambda place: act_engine.load_weights(nets()["robust"], place / "other.safetensors"),
        "other.safetensors",
    ),
    "read_config: nowhere": (lambda place: act_engine.read_config(place / "c.yaml"), "c.yaml"),
    "read_config: text": (lambda place: act_engine.read_config(place / "a.txt"), "a.txt"),
    "build_model: name": (
        lambda place: act_engine.build_model("small_cn", num_classes=3, image_shape=(3, 8, 8)),
        "did you mean 'small_cnn'",
    ),
    "build_objective: name": (lambda place: act_engine.build_objective("at"), "objective"),
    "build_data: name": (lambda place: act_engine.build_data("digit", batch_size=2), "did you mean 'digits'"),
    "save_model: no classes": (
        lambda place: act_engine.save_model(nets()["robust"], place / "s.safetensors", name="small_cnn"),
        "num_classes",
    ),
    "Trainer: folder": (
        lambda place: act_engine.Trainer(act_engine.Config(), place / "a.txt"),
        "a.txt",
    ),
    "Trainer: folder of others": (lambda place: act_engine.Trainer(act_engine.Config(), place), "holds files"),
    "kernels: backend": (lambda place: act_kernels.use_backend("cuda").__enter__(), "cuda"),
    "kernels: norm": (lambda place: act_kernels.pgd_step(IMAGES, IMAGES, IMAGES, 0.1, 0.1, norm="l3"), "norm"),
    "kernels: radius": (lambda place: act_kernels.pgd_step(IMAGES, IMAGES, IMAGES, 0.1, -0.1), "eps"),
    "kernels: shape": (lambda place: act_kernels.pgd_step(IMAGES, IMAGES[:2], IMAGES, 0.1, 0.1), "grad"),
    "kernels: noise": (lambda place: act_kernels.random_start(IMAGES, 0.1, kind="normal"), "kind"),
    "kernels: logits": (lambda place: act_kernels.act_loss(torch.zeros(4, 3), torch.zeros(4, 2), LABELS), "natural"),
    "kernels: labels": (lambda place: act_kernels.trades_loss(*torch.zeros(2, 4, 3), LABELS[:2]), "labels"),
    "kernels: temperature": (
        lambda place: act_kernels.act_loss(*torch.zeros(2, 4, 3), LABELS, temperature=0.0),
        "temperature",
    ),
}


@pytest.mark.parametrize("case", PYTHON)
def test_call(case, tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "a.txt").write_text("precious")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    before = contents(tmp_path)
    call, expected = PYTHON[case]
    with pytest.raises((ValueError, TypeError, OSError)) as raised:
        call(tmp_path)
    said = str(raised.value)
    assert expected.format(place=tmp_path) in said
    assert "\n" not in said
    assert contents(tmp_path) == before


def test_there_are_enough_of_them():
    assert len(VALUES) + len(WORDS) + 3 * len(RUNS) + len(PYTHON) >= 250
