"""Linear heads over frozen backbones: features, training, comparison, and imported heads."""

from finercam.probe.features import Features, default_cache, extract
from finercam.probe.linear import DECAYS, Head, accuracy, fit, stratified, sweep
from finercam.probe.released import import_head, read_head
from finercam.probe.run import ProbeResult, Training, poolings, probe

__all__ = [
    "DECAYS",
    "Features",
    "Head",
    "ProbeResult",
    "Training",
    "accuracy",
    "default_cache",
    "extract",
    "fit",
    "import_head",
    "poolings",
    "probe",
    "read_head",
    "stratified",
    "sweep",
]
