"""What methods are called, and which runs are seeds of one."""

from act_engine.config import from_mapping
from act_engine.runs.methods import deployed_model, group_by_method, method_label


def test_labels_name_the_method_and_its_switches():
    assert method_label(from_mapping({"objective": {"name": "trades"}})) == "TRADES"
    switched = from_mapping({"objective": {"name": "act", "awp_gamma": 0.005}, "train": {"ema": 0.999}})
    assert method_label(switched) == "ACT + AWP + EMA"
    assert deployed_model(["natural", "robust"]) == "robust"
    assert deployed_model(["natural"]) == "natural"


def test_runs_that_differ_in_their_seed_alone_are_one_group():
    runs = [
        {"objective": {"name": "act"}, "train": {"seed": 0}},
        {"objective": {"name": "madry"}, "train": {"seed": 0}},
        {"objective": {"name": "act"}, "train": {"seed": 1}, "data": {"workers": 5}, "checkpoint": {"keep": 7}},
    ]
    assert group_by_method([from_mapping(run) for run in runs]) == {"ACT": [0, 2], "adversarial training": [1]}


def test_groups_of_one_method_are_told_apart_by_their_settings():
    runs = [{"objective": {"name": "act", "robust_alpha": alpha}, "train": {"seed": 3}} for alpha in (0.5, 0.9, 0.5)]
    groups = group_by_method([from_mapping(run) for run in runs])
    assert groups == {"ACT (objective.robust_alpha 0.5)": [0, 2], "ACT (objective.robust_alpha 0.9)": [1]}
