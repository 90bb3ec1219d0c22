"""What a module's forward may read: its tensors, wherever they lie, and everything else; and a copy of all of it."""

import copy
import types
from collections.abc import Iterator
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

TABLES = frozenset(vars(nn.Module()))
"""What every module has; of these, the tables below are watched."""
TENSOR_TABLES = ("_parameters", "_buffers")
OTHER_TABLES = ("_modules", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
ATOMS = (bool, int, float, complex, str, bytes, type(None), type, torch.dtype, torch.device, torch.memory_format)
CODE = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType)
LARGEST = 10_000
"""Values that a module's attribute may hold and still be looked into; a larger one is known by its identity alone."""


def inner(module: nn.Module) -> nn.Module | None:
    """The module inside one that only wraps it for several processes or for torch.compile; None: it is no wrapper."""
    if isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return module.module
    children = vars(module).get("_modules")
    return children.get("_orig_mod") if isinstance(children, dict) else None  # TorchScript's is no dict


def unwrapped(module: nn.Module) -> nn.Module:
    """The bare module, without DistributedDataParallel, DataParallel and torch.compile around it."""
    while (inside := inner(module)) is not None:
        module = inside
    return module


class Slot(NamedTuple):
    """A place where a tensor lies: ``holder[key]``."""

    name: str
    holder: Any
    key: Any
    tensor: Tensor

    def like(self) -> tuple:
        tensor = self.holder[self.key]
        return tensor.shape, tensor.dtype, tensor.device


class Contents:
    """A module's contents as they are now, to be compared with what they become.

    Looked into: submodules, also those in plain lists and the like; parameters, buffers and plain tensors; hooks; and
    plain attributes: numbers, flags, functions, lists, dicts and the attributes of plain objects. The values of tensors
    are not compared, nor are train and eval mode, nor what happens inside functions.
    """

    def __init__(self, model: nn.Module) -> None:
        self.slots: list[Slot] = []
        self.modules: list[nn.Module] = []
        self.wrappers: list[tuple[nn.Module, nn.Module]] = []
        self._opaque: str | None = None
        self._empty: list[dict] = []  # tables of modules
        self._held: list[tuple[str, Any, int, tuple, tuple]] = []  # name, holder, its length, keys, values but tensors
        self._copied: list[tuple[str, Any, Any]] = []  # name, a set or an array, a copy of it
        self._whole: list[tuple[Any, int, Any]] = []  # holder, its length, a copy of what is watched in it
        self._known: dict[int, Any] = {}  # by id; the values keep what has an id alive
        self._waiting: list[tuple[str, nn.Module]] = [("", model)]
        while self._waiting:
            self._read(*self._waiting.pop())
        self._types = [type(module) for module in self.modules]
        self._likes = [slot.like() for slot in self.slots]
        places: dict[int, int] = {}
        first = [places.setdefault(id(slot.tensor), index) for index, slot in enumerate(self.slots)]
        self._shared = [(index, at) for index, at in enumerate(first) if index != at]

    def tensors(self) -> list[Tensor]:
        """The tensors that lie in the slots now; only where nothing else has changed."""
        return [slot.holder[slot.key] for slot in self.slots]

    def change(self) -> str | None:
        """The name of something that is no longer as it was; None: at most the values of tensors are."""
        if any(self._empty):
            return "a hook or submodule"
        for name, holder, size, keys, values in self._held:
            if len(holder) != size:
                return f"the number of values in {name or 'the model'}"
            try:
                if all(map(is_, map(holder.__getitem__, keys), values)):
                    continue
                for key, value in zip(keys, values, strict=True):
                    now = holder[key]
                    if now is not value and not (type(now) is type(value) and isinstance(now, ATOMS) and now == value):
                        return _join(name, key)
            except KeyError:
                return f"a value of {name or 'the model'}"
        for name, holder, content in self._copied:
            if _content(holder) != content:
                return name
        if self._types != [type(module) for module in self.modules]:
            return "a module's class"
        for slot, like in zip(self.slots, self._likes, strict=True):
            now = slot.holder.get(slot.key) if isinstance(slot.holder, dict) else slot.holder[slot.key]
            if not isinstance(now, Tensor) or (now.shape, now.dtype, now.device) != like:
                return slot.name
        now = self.tensors() if self._shared else []
        return next((self.slots[a].name for a, b in self._shared if now[a] is not now[b]), None)

    def restore(self) -> None:
        """Put everything but hooks and submodules back in its place; no tensor's values are changed."""
        for holder, size, kept in self._whole:
            now = holder if isinstance(kept, list) else [holder.get(key, TABLES) for key in kept]
            before = kept if isinstance(kept, list) else kept.values()
            if len(holder) == size and all(map(is_, now, before)):
                continue
            if isinstance(kept, list):
                holder[:] = kept
                continue
            for key in [key for key in holder if key not in kept and key not in TABLES]:
                del holder[key]
            holder.update(kept)
        for _, holder, content in self._copied:
            if isinstance(holder, set) and holder != content:
                holder.clear()
                holder.update(content)

    def copy(self, model: nn.Module) -> tuple[nn.Module, dict[int, Any]]:
        """A deep copy of `model`, of which these are the contents, and the copy of each thing by the thing's id.

        Wrappers are left out, and tensors that a computation left behind are taken as values, without its graph.

        Raises:
            ValueError: something is not copied, but shared or left out.
            Exception: whatever copying a part of it raises.
        """
        if self._opaque is not None:
            raise ValueError(self._opaque)
        memo: dict[int, Any] = {}
        for slot in self.slots:
            if not slot.tensor.is_leaf:
                memo[id(slot.tensor)] = slot.tensor.detach().clone()
        for wrapper, inside in reversed(self.wrappers):
            memo[id(wrapper)] = copy.deepcopy(inside, memo)
        module = copy.deepcopy(model, memo)
        parts = [*((type(part).__name__, part) for part in self.modules), *((s.name, s.tensor) for s in self.slots)]
        for name, part in parts:
            if memo.get(id(part), part) is part:
                raise ValueError(f"{name} is not copied with it")
        return module, memo

    def _read(self, name: str, module: nn.Module) -> None:
        if id(module) in self._known:
            return
        self._known[id(module)] = module
        inside = inner(module)
        if inside is not None:
            self.wrappers.append((module, inside))
            self._waiting.append((name, inside))
            return
        if isinstance(module, torch.jit.ScriptModule):
            self._opaque = "TorchScript shows nothing of what it holds"
            return
        self.modules.append(module)
        attributes = vars(module)
        self._hold(name, attributes, [key for key in attributes if key not in TABLES])
        for table in (*TENSOR_TABLES, *OTHER_TABLES):
            if attributes[table]:
                self._hold(name, attributes[table], list(attributes[table]), restored=table in TENSOR_TABLES)
            else:
                self._empty.append(attributes[table])

    def _hold(self, name: str, holder: Any, keys: list, restored: bool = True) -> None:
        """Watch `holder[key]` for the keys: tensors in slots, the rest by identity, and look into what they are."""
        plain: dict[Any, Any] = {}
        for key in keys:
            value = holder[key]
            if isinstance(value, Tensor):
                self.slots.append(Slot(_join(name, key), holder, key, value))
            else:
                plain[key] = value
        self._held.append((name, holder, len(holder), tuple(plain), tuple(plain.values())))
        if isinstance(holder, list) and restored:
            self._whole.append((holder, len(holder), list(holder)))
        elif isinstance(holder, dict) and restored:
            self._whole.append((holder, len(holder), {key: holder[key] for key in keys}))
        for key, value in plain.items():
            self._look_into(_join(name, key), value)

    def _look_into(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module):
            self._waiting.append((name, value))
            return
        if isinstance(value, (*ATOMS, *CODE)) or id(value) in self._known:
            return
        if _size(value, LARGEST) >= LARGEST:
            return
        self._known[id(value)] = value
        if isinstance(value, set) or hasattr(value, "tobytes"):
            self._copied.append((name, value, _content(value)))
        elif isinstance(value, (list, tuple)):
            self._hold(name, value, list(range(len(value))))
        elif isinstance(value, dict):
            self._hold(name, value, list(value))
        elif hasattr(value, "__dict__"):
            self._hold(name, vars(value), list(vars(value)))


def _join(name: str, key: Any) -> str:
    return f"{name}.{key}" if name else str(key)


def _content(value: Any) -> Any:
    """A copy that can be compared, of a set or an array."""
    return value.tobytes() if hasattr(value, "tobytes") else set(value)


def _size(value: Any, limit: int) -> int:
    """How many values lie below this one, as far as `limit`; modules and tensors count one."""
    count, seen, waiting = 0, set(), [value]
    while waiting and count < limit:
        one = waiting.pop()
        count += 1
        if isinstance(one, (nn.Module, Tensor, *ATOMS, *CODE)) or id(one) in seen:
            continue
        seen.add(id(one))
        waiting.extend(_parts(one))
    return count


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from value
    elif hasattr(value, "nbytes"):
        yield from range(0, value.nbytes, 8)
    elif hasattr(value, "__dict__"):
        yield from vars(value).values()
