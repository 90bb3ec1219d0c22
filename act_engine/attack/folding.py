"""Which BatchNorm layers an eval-mode model can do without, and how they go into the layer before."""

import torch
from torch import Tensor, fx, nn

from act_engine.models.side_by_side import SideBySideConv2d

PRODUCERS = (nn.Conv1d, nn.Conv2d, SideBySideConv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class _Tracer(fx.Tracer):
    """Does not look into this package's own convolution, as into none of PyTorch's."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, SideBySideConv2d) or super().is_leaf_module(module, name)


def foldable_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Names (layer, BatchNorm) of every convolution or linear layer whose output only that BatchNorm reads.

    The data flow comes from a symbolic trace. A pair counts only if both modules run once and stand in the model once,
    have no hooks, and share no weight with another layer.

    Raises:
        Exception: whatever the trace meets in a forward that depends on its input's values.
    """
    graph = _Tracer().trace(model)
    places: dict[int, int] = {}
    for _, module in model.named_modules(remove_duplicate=False):
        places[id(module)] = places.get(id(module), 0) + 1
        for parameter in module._parameters.values():
            if parameter is not None:
                places[id(parameter)] = places.get(id(parameter), 0) + 1
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    pairs = []
    for node in graph.nodes:
        producer = node.args[0] if node.op == "call_module" and node.args else None
        if not (isinstance(producer, fx.Node) and producer.op == "call_module" and len(producer.users) == 1):
            continue
        layer, norm = model.get_submodule(producer.target), model.get_submodule(node.target)
        if type(layer) not in PRODUCERS or type(norm) not in NORMS or norm.running_mean is None:
            continue
        once = calls.count(producer.target) == 1 and calls.count(node.target) == 1
        alone = all(places[id(thing)] == 1 for thing in (layer, norm, *layer.parameters(recurse=False)))
        if once and alone and not (_hooked(layer) or _hooked(norm)):
            pairs.append((producer.target, node.target))
    return pairs


def _hooked(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(len(group) for group in hooks)


@torch.no_grad()
def fold_into(layer: nn.Module, norm: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Write into `weight` and `bias` those of the one layer that equals `norm` in eval mode after `layer`.

    norm(y) = (y − mean) · s + β with s = γ / √(var + eps), so weight · s and (bias − mean) · s + β. Computed in the
    layer's dtype, rounded once to that of `weight`.
    """
    scale = (norm.running_var + norm.eps).rsqrt_()
    if norm.weight is not None:
        scale.mul_(norm.weight)
    torch.mul(layer.weight, scale.view(-1, *[1] * (weight.dim() - 1)), out=weight)
    shift = -norm.running_mean if layer.bias is None else layer.bias - norm.running_mean
    shift.mul_(scale)
    if norm.bias is not None:
        shift.add_(norm.bias)
    bias.copy_(shift)
