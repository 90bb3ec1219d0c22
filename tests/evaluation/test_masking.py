"""Signs of gradient masking: found on a model that quantises its input, absent on the model behind it."""

import json

import pytest
import torch
from torch import nn

from act_engine import evaluate as door
from act_engine.attack import AttackView
from act_engine.config import AttackConfig, EvaluateConfig
from act_engine.data import build_data
from act_engine.evaluation import PGDAttack, RandomNoise, Transfer, evaluate, evaluate_models, format_table
from act_engine.evaluation.accuracy import Accuracy
from act_engine.evaluation.attacks import Place
from act_engine.evaluation.masking import RadiiProbe, signs_of_masking
from act_engine.parallel import World

EPS = 0.15
WORLD = World(0, 1, torch.device("cpu"), 60.0)
NAMES = {"robust": "AutoAttack", "pgd": "PGD", "noise": "random noise", "transfer": "the transferred attack"}


class Quantise(nn.Module):
    """Rounds pixels to a few levels: the gradient is zero, and the model behind it as easily fooled as before."""

    def forward(self, images):
        return (images * 16).round() / 16


@pytest.fixture(scope="module")
def evaluations(robust_run, in_float64):
    """The healthy model and the masked one, measured in the same way, the healthy one attacking the masked one."""
    healthy = in_float64(robust_run.models["robust"])
    models = {"healthy": healthy, "masked": nn.Sequential(Quantise(), healthy)}
    data = build_data("digits", batch_size=8, eval_batch_size=200)
    settings = EvaluateConfig(steps=20, restarts=3, images=200)
    attack = AttackConfig(eps=EPS)
    return evaluate_models(models, data.test, attack, settings, seed=0, world=WORLD, source=healthy)


def test_a_healthy_model_has_no_sign(evaluations):
    """Its own transferred attack is its PGD's last iterates from the same starts: never stronger than all iterates."""
    healthy = evaluations["models"]["healthy"]
    assert [text for text in healthy["warnings"] if not text.startswith("restarts")] == []
    assert healthy["robust_accuracy"] <= healthy["transfer_accuracy"]
    assert healthy["robust_accuracy"] < healthy["noise_accuracy"] - 0.1  # 0.23 to 0.25 lower in ten trainings
    assert healthy["masking"]["pgd"][-1] == 0


def test_a_quantising_model_is_flagged_by_each_sign(evaluations):
    """PGD says that it is nearly as accurate as without an attack; the healthy model's images fool it all the same.

    In ten trainings PGD left it 0.23 to 0.26 above the healthy one, and the healthy one's images 0.14 to 0.18 below.
    """
    masked = evaluations["models"]["masked"]
    signs = {text.split(":")[0] for text in masked["warnings"]}
    assert {"steps", "large eps", "transfer"} <= signs
    assert masked["robust_accuracy"] > evaluations["models"]["healthy"]["robust_accuracy"] + 0.1
    assert masked["transfer_accuracy"] < masked["robust_accuracy"] - 0.1
    shown = format_table(evaluations)
    assert "warning: masked: large eps" in shown
    assert "warning: healthy: large eps" not in shown


def test_noise_that_fools_what_pgd_does_not(robust_run):
    """PGD of one start without a step is weaker than ten draws of noise."""
    data = build_data("digits", batch_size=8, eval_batch_size=200)
    masked = nn.Sequential(Quantise(), robust_run.models["robust"])
    controls = {"noise": RandomNoise(0.4, draws=10)}
    measured = evaluate(masked, data.test.epoch(0), attack=PGDAttack(0.4, 0.1, 1, 1), controls=controls)
    (sign,) = signs_of_masking(measured, None, NAMES)
    assert sign.startswith("noise: random noise fools ")


def counts(robust, *pgd):
    """Of 100 images, those right under AutoAttack, and under PGD after each of its restarts."""
    right = {"clean": (100,), "robust": (robust,), "pgd": (pgd[-1],)}
    return Accuracy((100,), right, {"robust": (robust,), "pgd": pgd}, {"noise": 0, "pgd": 0})


def test_autoattack_far_below_pgd():
    """A gap of 8 points is what sound models show; one of 30 is not."""
    assert signs_of_masking(counts(44, 52), None, NAMES) == []
    (sign,) = signs_of_masking(counts(22, 52), None, NAMES)
    assert sign.startswith("autoattack: AutoAttack is 30.0 points below PGD")


def test_restarts_that_still_find_something():
    (sign,) = signs_of_masking(counts(50, 60, 55, 50), None, NAMES)
    assert sign == "restarts: the last of 3 still fooled 5.0 % of the images: more of them will fool more"
    assert signs_of_masking(counts(50, 60, 51, 50), None, NAMES) == []


def test_the_probes_radii_end_where_every_image_lies():
    assert RadiiProbe(0.15, "linf", 1.0).radii == (0.15, 0.3, 0.6, 1.0)
    assert RadiiProbe(0.5, "l2", 8.0).radii == (0.5, 1.0, 2.0, 4.0, 8.0)


def test_transfer_is_the_sources_last_iterate(robust_run, images, in_float64):
    """A source that says nothing leaves only its random start; the model itself as source, its own last iterate."""
    model, x, y = in_float64(robust_run.models["robust"]), images[0].double(), images[1]
    pgd = PGDAttack(EPS, 0.02, 15, 1)

    class Constant(nn.Module):
        def forward(self, images):
            return images.new_zeros(len(images), 10) + 0 * images.sum()

    sources = {"constant": Transfer(AttackView(Constant()), pgd), "itself": Transfer(AttackView(model), pgd)}
    measured = evaluate(model, [(x, y)], attack=pgd, controls=sources)
    right = {name: sum(count) for name, count in measured.right.items()}
    view, start = AttackView(model), Place(0, None, 0).start(x, EPS, "linf", 0)
    expected = {}
    for name, x_adv in (("constant", start), ("itself", pgd.perturb(view, x, y, start.clone()))):
        with torch.no_grad():
            expected[name] = int(((view(x).argmax(1) == y) & (view(x_adv).argmax(1) == y)).sum())
    assert right["itself"] == expected["itself"] >= right["robust"]
    assert right["constant"] == expected["constant"] > right["robust"]


def test_the_door_takes_another_run_as_source(robust_folder, tmp_path, capsys):
    """Here the run itself; and what does not fit is one line."""
    words = [str(robust_folder), "--quick", "--images", "50"]
    before = sorted(path.name for path in robust_folder.iterdir())
    assert door.main([*words, "--source", str(robust_folder)]) == 0
    shown = capsys.readouterr().out
    assert "transfer %" in shown
    assert "no evidence" in shown
    assert sorted(path.name for path in robust_folder.iterdir()) == before, "a quick look writes nothing"
    for source in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(SystemExit):
            door.main([*words, "--source", str(source)])
        assert "is no run" in capsys.readouterr().err


def test_the_door_writes_what_it_measured(robust_folder, robust_run, capsys):
    words = ["--steps", "4", "--restarts", "2", "--loss", "dlr", "--targets", "2", "--norm", "l2", "--eps", "0.5"]
    assert door.main([str(robust_folder), "--attack", "pgd", "--images", "60", *words]) == 0
    evaluation = json.loads((robust_folder / "evaluation.json").read_text())
    attack = evaluation["attack"]
    assert (attack["loss"], attack["targets"], attack["norm"], attack["eps"]) == ("dlr", 2, "l2", 0.5)
    entry = evaluation["models"]["robust"]
    low, high = entry["intervals"]["robust_accuracy"]
    assert 0 <= low < entry["robust_accuracy"] < high <= 1
    assert len(entry["per_class"]["robust_accuracy"]) == 10
    assert entry["masking"]["radii"][-1] == 8.0
    assert f"({100 * low:.1f} to {100 * high:.1f})" in capsys.readouterr().out
