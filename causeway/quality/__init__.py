"""How good predictions are, as labels say once they are there, and as scores let expect before.

measures    figures of scores and labels
intervals   how sure they are
estimate    the same figures without labels (confidence-based performance estimation)
working     the threshold and the calibration map that training left with a version
"""
