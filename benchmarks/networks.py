"""The networks that are raced: torch modules with seeded random weights, float32, batch 1, exported to ONNX.

Batch norms are taken to be folded: a convolution has a bias instead. Every function takes the sizes that make a network
small enough for a test; its defaults are the ones of the tables.
"""
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Network:
    """module: takes the inputs in order. inputs: name -> shape, float32. outputs: names."""

    module: nn.Module
    inputs: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]

    def example(self, seed: int = 1) -> dict[str, np.ndarray]:
        """Inputs drawn from N(0, 1)."""
        rng = np.random.default_rng(seed)
        return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in self.inputs.items()}


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    """Fills parameters so that activations keep their scale: N(0, 2 / fan-in) for convolutions, N(0, 1 / fan-in) for
    other matrices, N(0, 0.01^2) for biases; the gains of norms stay 1. numpy draws, so every torch gives the same."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.ndim > 1:
                scale = np.sqrt((2 if p.ndim == 4 else 1) / p[0].numel())
            elif "bias" in name:
                scale = 0.01
            else:
                continue
            p.copy_(torch.from_numpy(rng.standard_normal(p.shape).astype(np.float32) * np.float32(scale)))
    return module.eval()


def mobilenet_v1(width: float = 1.0, size: int = 224) -> Network:
    """Howard et al. 2017: 4.2 M parameters, 569 M multiply-adds."""
    outputs = [64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    channels = _scaled(32, width)
    layers: list[nn.Module] = [*_conv(3, channels, 3, 2), nn.ReLU()]
    for wanted, stride in zip(outputs, strides, strict=True):
        after = _scaled(wanted, width)
        layers += [*_conv(channels, channels, 3, stride, channels), nn.ReLU(), *_conv(channels, after, 1), nn.ReLU()]
        channels = after
    return _image(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)), size)


class _Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expand: int):
        super().__init__()
        inner = inputs * expand
        grow = [*_conv(inputs, inner, 1), nn.ReLU6()] if expand > 1 else []
        self.layers = nn.Sequential(*grow, *_conv(inner, inner, 3, stride, inner), nn.ReLU6(), *_conv(inner, outputs, 1))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


def mobilenet_v2(width: float = 1.0, size: int = 224) -> Network:
    """Sandler et al. 2018: 3.5 M parameters, 301 M multiply-adds."""
    channels = _scaled(32, width)
    layers: list[nn.Module] = [*_conv(3, channels, 3, 2), nn.ReLU6()]
    for expand, wanted, times, stride in [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
                                          (6, 160, 3, 2), (6, 320, 1, 1)]:
        for i in range(times):
            layers.append(_Inverted(channels, _scaled(wanted, width), 1 if i else stride, expand))
            channels = _scaled(wanted, width)
    layers += [*_conv(channels, 1280, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
    return _image(nn.Sequential(*layers), size)


class _Basic(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.first, self.second = _conv(inputs, outputs, 3, stride)[0], _conv(outputs, outputs, 3)[0]
        self.short = _conv(inputs, outputs, 1, stride)[0] if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.short(x) + self.second(F.relu(self.first(x))))


def _resnet18(width: int) -> nn.Sequential:
    """(1, 3, h, w) -> (1, 8 * width): He et al. 2016 without the head."""
    layers: list[nn.Module] = [*_conv(3, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    for inputs, outputs, stride in [(1, 1, 1), (1, 2, 2), (2, 4, 2), (4, 8, 2)]:
        layers += [_Basic(inputs * width, outputs * width, stride), _Basic(outputs * width, outputs * width, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def resnet18(width: int = 64, size: int = 224) -> Network:
    """11.7 M parameters, 1.8 G multiply-adds."""
    return _image(nn.Sequential(_resnet18(width), nn.Linear(8 * width, 1000)), size)


class _Policy(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.encoder, self.gru = _resnet18(width), nn.GRU(8 * width, hidden)
        self.head = nn.Sequential(nn.Linear(hidden, 64), nn.Tanh(), nn.Linear(64, 2))

    def forward(self, image: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y, h = self.gru(self.encoder(image).unsqueeze(0), h)
        return self.head(y[0]), h


def resnet18_policy(width: int = 64, size: tuple[int, int] = (128, 256), hidden: int = 256) -> Network:
    """One step of a driving policy: an image and the state of a GRU to an action and the next state. 1.2 G multiply-adds."""
    return Network(seeded(_Policy(width, hidden)), {"image": (1, 3, *size), "h": (1, 1, hidden)}, ("action", "h_next"))


class _Attention(nn.Module):
    """Projections of multi-head attention: (batch, tokens, width) to and from heads."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class _Encoder(nn.Module):
    def __init__(self, width: int, heads: int, inner: int):
        super().__init__()
        self.attention = _Attention(width, heads)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        a = self.attention
        x = self.norm1(x + a.attend(a.split(a.q(x)), a.split(a.k(x)), a.split(a.v(x))))
        return self.norm2(x + self.mlp(x))


class _PatchTST(nn.Module):
    def __init__(self, steps: int, patch: int, stride: int, width: int, heads: int, inner: int, layers: int, horizon: int):
        super().__init__()
        self.patch, self.stride = patch, stride
        tokens = (steps - patch) // stride + 2
        self.embed, self.position = nn.Linear(patch, width), nn.Parameter(torch.zeros(tokens, width))
        self.layers = nn.Sequential(*(_Encoder(width, heads, inner) for _ in range(layers)))
        self.head = nn.Linear(tokens * width, horizon)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        scale = torch.sqrt((x - mean).square().mean(-1, keepdim=True) + 1e-5)
        x = (x - mean) / scale
        x = torch.cat([x, x[:, -1:].expand(-1, self.stride)], -1)
        parts = [x[:, i:i + self.stride * ((x.shape[-1] - self.patch) // self.stride + 1)].unflatten(-1, (-1, self.stride))
                 for i in range(0, self.patch, self.stride)]
        y = self.layers(self.embed(torch.cat(parts, -1)) + self.position)
        return self.head(y.flatten(1)) * scale + mean


def patchtst(series: int = 7, steps: int = 336, patch: int = 16, stride: int = 8, width: int = 128, heads: int = 16,
             inner: int = 256, layers: int = 3, horizon: int = 96) -> Network:
    """Nie et al. 2023, norms by layer: series are independent, as a batch; the last value is repeated for a last patch.
    patch is a multiple of stride. 129 M multiply-adds."""
    module = _PatchTST(steps, patch, stride, width, heads, inner, layers, horizon)
    return Network(seeded(module), {"x": (series, steps)}, ("y",))


class _LSTM(nn.Module):
    def __init__(self, series: int, width: int, horizon: int):
        super().__init__()
        self.lstm, self.head = nn.LSTM(series, width, num_layers=2), nn.Linear(width, horizon)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][-1])


def lstm(series: int = 7, steps: int = 96, width: int = 128, horizon: int = 24) -> Network:
    """A forecaster of two layers that reads the whole past: 19 M multiply-adds."""
    return Network(seeded(_LSTM(series, width, horizon)), {"x": (steps, 1, series)}, ("y",))


class _LSTMStep(_LSTM):
    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h, c) = self.lstm(x, (h, c))
        return self.head(y[-1]), h, c


def lstm_step(series: int = 7, width: int = 128, horizon: int = 24) -> Network:
    """One step of the same forecaster, its state handed in and out."""
    state = (2, 1, width)
    return Network(seeded(_LSTMStep(series, width, horizon)), {"x": (1, 1, series), "h": state, "c": state},
                   ("y", "h_next", "c_next"))


class _Cached(nn.Module):
    def __init__(self, width: int, heads: int, outputs: int):
        super().__init__()
        self.attention = _Attention(width, heads)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, y = self.attention, self.norm1(x)
        keys = torch.cat([keys[:, :, 1:], a.split(a.k(y))], 2)
        values = torch.cat([values[:, :, 1:], a.split(a.v(y))], 2)
        x = x + a.attend(a.split(a.q(y)), keys, values)
        x = x + self.mlp(self.norm2(x))
        return self.head(self.norm3(x)), keys, values


def transformer_step(width: int = 512, heads: int = 8, past: int = 128, outputs: int = 64) -> Network:
    """One token through a causal block and a head; the cache holds the last `past` keys and values, handed in and out."""
    cache = (1, heads, past, width // heads)
    return Network(seeded(_Cached(width, heads, outputs)), {"x": (1, 1, width), "keys": cache, "values": cache},
                   ("y", "keys_next", "values_next"))


def mlp(inputs: int = 8, width: int = 64, outputs: int = 2) -> Network:
    """The policy that PPO implementations train by default: two tanh layers."""
    layers = [nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, outputs)]
    return Network(seeded(nn.Sequential(*layers)), {"x": (1, inputs)}, ("y",))


NETWORKS: dict[str, Callable[..., Network]] = {f.__name__: f for f in (
    mobilenet_v1, mobilenet_v2, resnet18, resnet18_policy, patchtst, lstm, lstm_step, transformer_step, mlp)}


def _scaled(channels: int, width: float) -> int:
    return max(8, int(channels * width + 4) // 8 * 8)


def _conv(inputs: int, outputs: int, k: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, k, stride, k // 2, groups=groups)]


def _image(module: nn.Module, size: int) -> Network:
    return Network(seeded(module), {"x": (1, 3, size, size)}, ("y",))
