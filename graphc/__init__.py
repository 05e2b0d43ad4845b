"""graphc: a static-graph compiler for arrays."""

from graphc.autodiff import grad, hvp, jvp, vjp
from graphc.ops.activations import relu, sigmoid, tanh
from graphc.ops.arithmetic import add, astype, multiply, stop_gradient, subtract, where
from graphc.ops.composite import mean, softmax_cross_entropy
from graphc.ops.contractions import matmul
from graphc.ops.exponential import exp, log, square
from graphc.ops.gather import pick
from graphc.ops.joins import concatenate
from graphc.ops.reductions import max, sum
from graphc.ops.sources import const, input, iota, param
from graphc.ops.views import broadcast_to, flip, reshape, transpose
