"""The core: one run of a model, the question, and the evidence that answers it."""
