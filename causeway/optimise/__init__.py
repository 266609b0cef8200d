"""Variants of a model version, made from its ONNX graph, and which of them earn their place.

Needs the training dependencies (onnx, scikit-learn); nothing that serves imports this package.
"""
