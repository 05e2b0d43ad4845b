"""Training: data, optimizers, schedules, losses, metrics, the loop, checkpoints."""

from graphc.train.augment import (
    Augmentation,
    Crop,
    Cutout,
    Flip,
    Mixup,
    Noise,
    Rotate,
    Shift,
    Zoom,
)
from graphc.train.callbacks import Callback, Checkpoint, EarlyStopping
from graphc.train.chain import expand
from graphc.train.data import Batches
from graphc.train.gradients import GradientReport, Reading, gradient_report
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
from graphc.train.scale import Scale, Standardise
from graphc.train.schedules import (
    Constant,
    Cosine,
    Exponential,
    ReduceOnPlateau,
    Schedule,
    Step,
    Warmup,
)
from graphc.train.split import split
from graphc.train.trainer import Trainer

__all__ = [
    "L1", "L2", "LOSSES", "METRICS", "SGD", "Adagrad", "Adam", "AdamW", "Augmentation", "Batches",
    "Callback", "Checkpoint", "Constant", "Cosine", "Crop", "Cutout", "EarlyStopping",
    "Exponential", "Flip", "GradientReport", "History", "MaxNorm", "Metric", "Mixup", "Noise",
    "Optimizer", "ProgressBar", "RMSProp", "Reading", "ReduceOnPlateau", "Rotate", "Scale",
    "Schedule", "Shift", "Standardise", "Step", "Trainer", "Warmup", "Zoom", "accuracy",
    "binary_accuracy", "confusion_matrix", "expand", "gradient_report", "split",
    "top_k",
]  # fmt: skip
