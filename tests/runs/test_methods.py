"""What methods are called, and which runs are seeds of one."""

import pytest
import yaml

from act_engine.config import from_mapping, to_mapping
from act_engine.objectives.act import ACT
from act_engine.runs.folder import check_run
from act_engine.runs.methods import deployed_model, group_by_method, method_label, method_of


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


def test_runs_that_stated_every_objectives_numbers_are_read_and_go_on(tmp_path):
    """As they were written before each objective stated its own alone."""
    stated = {"robust_alpha": 0.5, "natural_alpha": 0.5, "temperature": 4.0, "label_smoothing": 0.0}
    new = from_mapping({"objective": {"name": "trades", "beta": 6.0}})
    old = {**to_mapping(new), "objective": {**to_mapping(new)["objective"], **stated}}
    assert old["objective"]["beta"] == 6.0
    assert method_of(from_mapping(old)) == method_of(new)
    without = {**old, "objective": {**old["objective"], "name": "act", "beta": None}}
    assert method_of(from_mapping(without)) == ACT(0.5, 0.5)
    seed = from_mapping({"train": {"seed": 1}}, new)
    assert group_by_method([from_mapping(old), seed]) == {"TRADES": [0, 1]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(old))
    check_run(tmp_path, new)
    with pytest.raises(ValueError, match=r"objective\.beta: 6\.0 there, 3\.0 here"):
        check_run(tmp_path, from_mapping({"objective": {"name": "trades", "beta": 3}}))
