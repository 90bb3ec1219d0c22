"""Models whose attack view may not be had by the usual way: what each of them does is in its docstring."""

import torch
import torch.nn.functional as F
from torch import nn


def randomise(model):
    """The model in float64; BatchNorm layers of an untrained model are the identity: these are not."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.1, 0.4)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model.double()


class Base(nn.Module):
    """Convolution, BatchNorm, linear layer, for images [B, 3, 6, 6]; the others change one thing."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Linear(6, 5)

    def features(self, x):
        return self.bn(self.conv(x)).relu()

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))


# --- a BatchNorm that normalises another axis than the layer's features


class TokenNorm(Base):
    """Linear layer over tokens, as many tokens as features; BatchNorm1d normalises the tokens."""

    tokens, norm = 6, nn.BatchNorm1d

    def __init__(self):
        super().__init__()
        self.linear, self.token_bn = nn.Linear(18, 6), self.norm(self.tokens)
        self.fc = nn.Linear(6 * self.tokens, 5)

    def forward(self, x):
        tokens = x.permute(0, 2, 1, 3).flatten(2)[:, : self.tokens]
        return self.fc(self.token_bn(self.linear(tokens)).relu().flatten(1))


class FewerTokens(TokenNorm):
    """Fewer tokens than features: the shapes do not even fit."""

    tokens = 4


class SyncedTokenNorm(TokenNorm):
    """The same with the BatchNorm that takes any shape."""

    norm = nn.SyncBatchNorm


class LinearOverWidth(Base):
    """A linear layer over the columns of feature maps, and BatchNorm over the channels, as many as columns."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x):
        return self.fc(self.bn(self.linear(self.conv(x))).relu().mean((2, 3)))


class SometimesTokens(Base):
    """One linear layer with its BatchNorm on [B, features], and another on tokens: only the first can be folded."""

    def __init__(self):
        super().__init__()
        self.on_tokens, self.token_bn = nn.Linear(6, 6), nn.BatchNorm1d(6)

    def forward(self, x):
        maps = self.features(x).flatten(2)[:, :, :6]
        return self.fc(self.token_bn(self.on_tokens(maps)).mean(2))


# --- a folded layer's tensors that are read elsewhere


class TiedDecoder(Base):
    """The convolution's weight also decodes."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(7, 5)

    def forward(self, x):
        h = self.features(x)
        back = F.conv_transpose2d(h, self.conv.weight, padding=1)
        return self.fc(torch.cat([h.mean((2, 3)), (back - x).square().mean((1, 2, 3))[:, None]], 1))


class WeightNormInLogits(Base):
    """The forward reads the weight's norm by way of `parameters()`, where no symbolic trace sees it."""

    def forward(self, x):
        return super().forward(x) * sum(p.square().sum() for p in self.conv.parameters())


class ReadsGamma(Base):
    """Channels are gated by BatchNorm's own weight."""

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)) * self.bn.weight.sigmoid())


class ReadsRunningMean(Base):
    """The forward reads BatchNorm's running statistics."""

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)) - self.bn.running_mean)


class ReadsState(Base):
    """The forward reads a bias by way of `state_dict()`."""

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)) + self.state_dict()["conv.bias"])


class ReadsDtype(Base):
    """Reads of a weight only its dtype, which folding leaves as it is."""

    def forward(self, x):
        return super().forward(x.to(self.conv.weight.dtype))


# --- a BatchNorm that is not in eval mode under eval()


class StaysInTrainMode(Base):
    """`train` and `eval` leave BatchNorm in train mode."""

    def train(self, mode=True):
        super().train(mode)
        self.bn.training = True
        return self


class TrainsInForward(Base):
    """The forward puts BatchNorm in train mode."""

    def forward(self, x):
        self.bn.train()
        return super().forward(x)


class OwnForward(Base):
    """BatchNorm is given another forward, that of train mode, by hand."""

    def __init__(self):
        super().__init__()
        bn = self.bn
        bn.forward = lambda x: F.batch_norm(x, None, None, bn.weight, bn.bias, training=True)


# --- forward passes that write into their input


class Normalises(Base):
    """Normalises its input in place."""

    def forward(self, x):
        return super().forward(x.sub_(0.5).div_(0.25))


class WritesACorner(Base):
    """Blackens a corner of its input."""

    def forward(self, x):
        x[:, :, :2, :2] = 0
        return super().forward(x)


class RelusItsInput(Base):
    """Its first layer is an in-place ReLU of a shifted view."""

    def __init__(self):
        super().__init__()
        self.relu = nn.Threshold(0.5, 0.1, inplace=True)

    def forward(self, x):
        return super().forward(self.relu(x))
