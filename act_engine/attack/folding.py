"""Which BatchNorm layers an eval-mode model can do without, and how they go into the layer before."""

import torch
from torch import Tensor, fx, nn

from act_engine.models.side_by_side import SideBySideConv2d

PRODUCERS = (nn.Conv1d, nn.Conv2d, SideBySideConv2d, nn.Conv3d, nn.Linear)
DIMENSIONS = {nn.Linear: 2, nn.Conv1d: 3, nn.Conv2d: 4, SideBySideConv2d: 4, nn.Conv3d: 5}
"""Of the output of a layer on a batch, if its second axis, BatchNorm's, is that of the layer's output features."""
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
OF_TENSORS = ("shape", "dtype", "device", "ndim")
"""What may be read of a folded layer's tensors: it stays as it is."""


class OtherAxis(ValueError):
    """The input of a folded BatchNorm shows that it is not one to be folded; `norm` is its name."""

    def __init__(self, norm: str) -> None:
        super().__init__(f"{norm} normalises another axis than that of the features of the layer before it")
        self.norm = norm


class Folded(nn.Module):
    """Stands where a folded BatchNorm stood, and passes on what the layer before gives.

    Raises:
        OtherAxis: the input has not the dimensions in which both layers mean the same axis.
    """

    def __init__(self, name: str, layer: nn.Module) -> None:
        super().__init__()
        self.name, self.dimensions = name, DIMENSIONS[type(layer)]

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != self.dimensions:
            raise OtherAxis(self.name)
        return input


class _Tracer(fx.Tracer):
    """Does not look into this package's own convolution, as into none of PyTorch's; notes each tensor that is read."""

    proxy_buffer_attributes = True

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, SideBySideConv2d) or super().is_leaf_module(module, name)


def foldable_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Names (layer, BatchNorm) of every convolution or linear layer whose output only that BatchNorm reads.

    The data flow comes from a symbolic trace of the model in eval mode. A pair counts only if both modules are plain
    ones (no hook, no parametrization, no forward of their own), run once, stand in the model once, share no weight with
    another layer, have no tensor that the forward reads beside calling them, and if the norm really is in eval mode and
    has as many features as the layer. That it normalises the layer's features is left to `Folded`, which sees a batch.

    Raises:
        Exception: whatever the trace meets in a forward that depends on its input's values.
    """
    graph = _Tracer().trace(model)
    places: dict[int, int] = {}
    for _, module in model.named_modules(remove_duplicate=False):
        places[id(module)] = places.get(id(module), 0) + 1
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                places[id(tensor)] = places.get(id(tensor), 0) + 1
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    read = {node.target.rpartition(".")[0] for node in graph.nodes if node.op == "get_attr" and _value_read(node)}
    pairs = []
    for node in graph.nodes:
        producer = node.args[0] if node.op == "call_module" and node.args else None
        if not (isinstance(producer, fx.Node) and producer.op == "call_module" and len(producer.users) == 1):
            continue
        names = (producer.target, node.target)
        layer, norm = (model.get_submodule(name) for name in names)
        tensors = [tensor for part in (layer, norm) for tensor in (*part.parameters(), *part.buffers())]
        if (
            _foldable(layer, norm)
            and all(calls.count(name) == 1 and name not in read for name in names)
            and all(places[id(thing)] == 1 for thing in (layer, norm, *tensors))
        ):
            pairs.append(names)
    return pairs


def _foldable(layer: nn.Module, norm: nn.Module) -> bool:
    return (
        type(layer) in PRODUCERS
        and type(norm) in NORMS
        and not (type(layer) is nn.Linear and type(norm) in (nn.BatchNorm2d, nn.BatchNorm3d))
        and norm.running_mean is not None
        and norm.running_var is not None
        and not norm.training
        and norm.num_features == layer.weight.shape[0]
        and all("forward" not in vars(module) and not _hooked(module) for module in (layer, norm))
    )


def _value_read(node: fx.Node) -> bool:
    """Whether a tensor of the model is read for more than its form."""

    def of_form(user: fx.Node) -> bool:
        return user.op == "call_function" and user.target is getattr and user.args[1] in OF_TENSORS

    return not all(of_form(user) for user in node.users)


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
