"""What the tests of training share."""

import torch
from torch import nn

from gradients_in_depth.data import Split, gaussian_batch
from gradients_in_depth.networks import DeepMLP


def gaussian_data(n_train=20, width=4, classes=3, dtype=torch.float32):
    inputs = gaussian_batch(n_train + 10, width, seed=0, dtype=dtype)
    targets = inputs[:, :classes].argmax(dim=1)
    return Split(inputs[:n_train], targets[:n_train], inputs[n_train:], targets[n_train:])


def small_network(**settings):
    return DeepMLP(2, 6, in_features=4, out_features=3, **settings)


def linear_regression(n=30, dtype=torch.float64):
    inputs = gaussian_batch(n, 3, seed=0, dtype=dtype)
    targets = inputs @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=dtype) + 0.3
    model = nn.Linear(3, 1, dtype=dtype)
    nn.init.constant_(model.weight, 0.2)
    nn.init.zeros_(model.bias)
    return model, Split(inputs, targets, inputs[:7], targets[:7])


MODEL = small_network()
SIDE_BY_SIDE = {"learning_rates": [0.01, 0.1], "seeds": [3, 0], "epochs": 2, "batch_size": 6}
