"""A packaged model service on BentoML: the machinery between `service.py` and `train_and_save.py`."""
