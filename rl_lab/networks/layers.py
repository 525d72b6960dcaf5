"""Layers that torch lacks, or that draw from its global generator there."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PixelConv2d(nn.Conv2d):
    """A first layer that reads pixels as bytes 0..255 and sees them as 0..1."""

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 4, 84, 84] uint8 to features of the weights' type; quickest with the channels last in memory."""
        # Dividing the weights is dividing the pixels, at a hundredth of the numbers; bf16 holds 0..255 exactly.
        pixels = pixels.contiguous(memory_format=torch.channels_last).to(self.weight.dtype)
        return F.conv2d(pixels, self.weight / 255.0, self.bias, self.stride, self.padding)


class SpectralConv2d(nn.Conv2d):
    """A convolution divided by its largest singular value, as a matrix [out, in * height * width] (Miyato et al. 2018).

    `u` [out] comes nearer to the singular vector by one power iteration a pass, while the network learns or explores.
    """

    u: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, padding: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=padding)
        self.register_buffer("u", torch.empty(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] to [B, out, H, W]."""
        matrix = self.weight.flatten(1)
        u = self.u
        if self.training:
            with torch.no_grad():
                u = F.normalize(matrix @ F.normalize(u @ matrix, dim=0), dim=0)
                self.u.copy_(u)
        # For the right singular vector v = W'u / |W'u| the singular value u'Wv is |W'u|.
        norm = torch.linalg.vector_norm(u @ matrix)
        return F.conv2d(x, self.weight / norm, self.bias, self.stride, self.padding)


class Residual(nn.Module):
    """Two 3x3 convolutions after rectifiers, added to what goes in (Espeholt et al. 2018, figure 3)."""

    def __init__(self, channels: int, *, spectral_norm: bool, layer_norm: bool) -> None:
        super().__init__()
        convolution = SpectralConv2d if spectral_norm else nn.Conv2d
        normalization = channel_norm if layer_norm else lambda _: nn.Identity()
        self.norm_0, self.conv_0 = normalization(channels), convolution(channels, channels, 3, padding=1)
        self.norm_1, self.conv_1 = normalization(channels), convolution(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W]"""
        y: Tensor = self.conv_0(F.relu(self.norm_0(x)))
        return x.add(self.conv_1(F.relu_(self.norm_1(y))))


class NoisyLinear(nn.Linear):
    """Fully connected, with learned noise: one draw, factorized, for each pass (Fortunato et al. 2018, section 3).

    `weight` and `bias` are the means, which stand alone when the network is at rest.
    """

    rng: np.random.Generator

    def __init__(self, in_features: int, out_features: int, *, sigma: float) -> None:
        """`sigma` is the paper's sigma_0; at 0 there is no noise, and nothing to learn of it."""
        super().__init__(in_features, out_features)
        self.sigma = sigma
        if sigma:
            self.weight_sigma = nn.Parameter(torch.empty(out_features, in_features))
            self.bias_sigma = nn.Parameter(torch.empty(out_features))

    def initialize_sigma(self) -> None:
        """Section 3.2: sigma_0 / sqrt(inputs), everywhere."""
        if self.sigma:
            for parameter in (self.weight_sigma, self.bias_sigma):
                nn.init.constant_(parameter, self.sigma / math.sqrt(self.in_features))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        y = super().forward(x)
        if not self.sigma or not self.training:
            return y
        noise_in, noise_out = self._noise(self.in_features), self._noise(self.out_features)
        # The noise of a weight is the product of its output's and its input's (eqs. 10 and 11): scaling inputs and
        # outputs does the same as scaling a matrix, at a thousandth of the numbers.
        return y + F.linear(x * noise_in, self.weight_sigma, self.bias_sigma) * noise_out

    def _noise(self, size: int) -> Tensor:
        """[size]: sgn(e) sqrt|e| of normal e."""
        e = torch.from_numpy(self.rng.standard_normal(size, np.float32)).to(self.weight)
        return e.sign() * e.abs().sqrt()


class Dropout(nn.Module):
    """Leaves each number out with a chance of `p`, and makes up for it in the others (Srivastava et al. 2014)."""

    rng: np.random.Generator

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """[...]"""
        if not self.training:
            return x
        kept = torch.from_numpy(self.rng.random(x.shape, np.float32) >= self.p)
        return x * (kept.to(x) / (1 - self.p))


def channel_norm(channels: int) -> nn.GroupNorm:
    """Layer normalization of feature maps, with a gain and a bias for each channel (Ba et al. 2016)."""
    return nn.GroupNorm(1, channels)
