"""Modules, layers, initialisers and the papers' networks."""

from npadv.nn.functions import AvgPool2D, Flatten, LeakyReLU, MaxPool2D, Pad2D, ReLU, Reshape, Sigmoid, Tanh
from npadv.nn.layers import Conv2D, ConvTranspose2D, Dense, Maxout, MaxoutConv2D
from npadv.nn.module import Module
from npadv.nn.neighbours import NearestNeighbour, SmoothedNearestNeighbour
from npadv.nn.networks import NETWORKS, load_network, network
from npadv.nn.parameter import MaxNorm, Parameter
from npadv.nn.sequential import Sequential
from npadv.nn.stochastic import BatchNorm, Dropout, Standardize

__all__ = [
    "NETWORKS",
    "AvgPool2D",
    "BatchNorm",
    "Conv2D",
    "ConvTranspose2D",
    "Dense",
    "Dropout",
    "Flatten",
    "LeakyReLU",
    "MaxNorm",
    "MaxPool2D",
    "Maxout",
    "MaxoutConv2D",
    "Module",
    "NearestNeighbour",
    "Pad2D",
    "Parameter",
    "ReLU",
    "Reshape",
    "Sequential",
    "Sigmoid",
    "SmoothedNearestNeighbour",
    "Standardize",
    "Tanh",
    "load_network",
    "network",
]
