"""Training: optimizers, schedules, losses, metrics, the loop, checkpoints."""

from graphc.train.callbacks import Callback, Checkpoint, EarlyStopping
from graphc.train.history import History
from graphc.train.losses import LOSSES
from graphc.train.metrics import (
    METRICS,
    Metric,
    accuracy,
    binary_accuracy,
    confusion_matrix,
    top_k,
)
from graphc.train.optimizers import SGD, Adagrad, Adam, AdamW, Optimizer, RMSProp
from graphc.train.penalties import L1, L2, MaxNorm
from graphc.train.progress import ProgressBar
from graphc.train.schedules import (
    Constant,
    Cosine,
    Exponential,
    ReduceOnPlateau,
    Schedule,
    Step,
    Warmup,
)
from graphc.train.trainer import Trainer

__all__ = [
    "L1", "L2", "LOSSES", "METRICS", "SGD", "Adagrad", "Adam", "AdamW", "Callback", "Checkpoint",
    "Constant", "Cosine", "EarlyStopping", "Exponential", "History", "MaxNorm", "Metric",
    "Optimizer", "ProgressBar", "RMSProp", "ReduceOnPlateau", "Schedule", "Step", "Trainer",
    "Warmup", "accuracy", "binary_accuracy", "confusion_matrix", "top_k",
]  # fmt: skip
