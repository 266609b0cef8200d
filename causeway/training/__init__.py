"""From a table to a version that may serve: what `train_and_save.py` and the families in models/ are built from.

Needs the training dependencies (scikit-learn, pandas, skl2onnx), and torch where a network is fitted or exported;
nothing that serves imports this package.
"""

from causeway.training.dataset import Dataset, Trained
from causeway.training.export import sklearn_to_onnx, torch_to_onnx

__all__ = ["Dataset", "Trained", "sklearn_to_onnx", "torch_to_onnx"]
