"""A small real training run: a network, its gradients by hand, Adam; published as bf16.

The task is made up (labels of a random teacher network), the optimisation is not: which weights of
the published checkpoint move between two steps, and by how much, is what training does to them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    Array = np.ndarray[Any, np.dtype[np.float32]]

BATCH = 64
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class Training:
    """An MLP in training. Weights and Adam's moments are float32, as the master copy usually is."""

    def __init__(self, widths: Sequence[int], seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.weights: list[Array] = []
        for fan_in, fan_out in pairwise(widths):
            scale = np.sqrt(2 / fan_in)
            weight = self._rng.normal(0, scale, (fan_in, fan_out)).astype(np.float32)
            self.weights += [weight, np.zeros(fan_out, np.float32)]
        self._moments = [(np.zeros_like(w), np.zeros_like(w)) for w in self.weights]
        self._teacher = self._rng.normal(size=(widths[0], widths[-1])).astype(np.float32)
        self._steps = 0

    def run(self, steps: int, rate: float) -> float:
        """Take `steps` steps of Adam at one learning rate; returns the last loss."""
        loss = float("nan")
        for _ in range(steps):
            inputs = self._rng.normal(size=(BATCH, len(self._teacher))).astype(np.float32)
            labels = (inputs @ self._teacher).argmax(axis=1)
            loss, gradients = self._gradients(inputs, labels)
            self._adam(gradients, rate)
        return loss

    def published(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the checkpoint as it would be shared: bf16."""
        return {
            f"layers.{number // 2}.{'bias' if number % 2 else 'weight'}": weight.astype(
                ml_dtypes.bfloat16
            )
            for number, weight in enumerate(self.weights)
        }

    def _gradients(self, inputs: Array, labels: Any) -> tuple[float, list[Array]]:
        activations = [inputs]
        layers = list(zip(self.weights[::2], self.weights[1::2], strict=True))
        for number, (weight, bias) in enumerate(layers):
            out = activations[-1] @ weight + bias
            activations.append(out if number == len(layers) - 1 else np.maximum(out, 0))
        logits = activations[-1] - activations[-1].max(axis=1, keepdims=True)
        shares = np.exp(logits)
        shares /= shares.sum(axis=1, keepdims=True)
        rows = np.arange(len(labels))
        loss = float(-np.log(shares[rows, labels] + 1e-12).mean())
        shares[rows, labels] -= 1
        upstream = shares / len(labels)
        gradients: list[Array] = []
        for (weight, _), below in zip(reversed(layers), reversed(activations[:-1]), strict=True):
            gradients[:0] = [below.T @ upstream, upstream.sum(axis=0)]
            upstream = (upstream @ weight.T) * (below > 0)
        return loss, gradients

    def _adam(self, gradients: list[Array], rate: float) -> None:
        self._steps += 1
        first_bias = 1 - _BETA1**self._steps
        second_bias = 1 - _BETA2**self._steps
        for weight, gradient, (first, second) in zip(
            self.weights, gradients, self._moments, strict=True
        ):
            first += (1 - _BETA1) * (gradient - first)
            second += (1 - _BETA2) * (gradient * gradient - second)
            weight -= rate * (first / first_bias) / (np.sqrt(second / second_bias) + _EPSILON)
