"""Evaluation: methods by contrasts by metrics on a dataset."""

from finercam.evaluation.evaluate import evaluate

__all__ = ["evaluate"]
