"""A whole dataset, on one machine or many: sharded Parquet that can be asked again without the model."""

from finercam.run.job import Cluster, Outcome, explain_dataset
from finercam.run.reader import Part, Run, open_run

__all__ = ["Cluster", "Outcome", "Part", "Run", "explain_dataset", "open_run"]
