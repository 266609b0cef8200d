"""Causeway beside its peers: the same work, one go, interleaved rounds, answers checked before anything is timed.

`python -m load_tests.bench` measures everything (about twelve minutes; Linux, and wrk from the distribution) and writes
load_tests/results/bench.json; `--quick` is a smoke run, `--only one_row,dear` a part. How the figures come about:

- Each server runs alone on one core and the load generator on another, where there are two. The servers of a scenario
  run at the same time and only one has work; a run begins when all of them have been quiet.
- A round measures each contestant once at each load, in an order drawn anew. Ratios are taken within a round, and their
  median over the rounds is told, so that the machine's own speed, which changes, cancels out.
- Before and after the rounds every contestant is asked all sample rows, 16 at a time, and its answers are compared with
  the model's own. One that is wrong is reported as a failure and has no figures.
- Every run says how much CPU the server, the generator and everybody else used, and which of them bounded it.
"""

import os

# Before anything loads OpenMP: its threads must not spin while they wait, on cores where servers are measured.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
