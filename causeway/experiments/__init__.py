"""A/B experiments: whether a challenger or a canary differs from the champion, however often somebody looks.

sequence  the mathematics: confidence sequences and the evidence of a sample-ratio mismatch
period    which versions were compared, since when, and with what share
outcomes  their scores and labels in the prediction log, by unit of randomisation
report    all of it together, and the verdict in one sentence
"""
