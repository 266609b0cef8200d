"""Every variant of a version made, measured in one go, judged, and saved where it earns its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from causeway import errors
from causeway.optimise import gate
from causeway.optimise.graph import NotMade
from causeway.optimise.half import open_network
from causeway.optimise.kinds import Kind
from causeway.optimise.made import Made
from causeway.optimise.measure import BATCHES, Figures, measure, opened, scores, scoring
from causeway.optimise.parent import Parent
from causeway.optimise.saving import save
from causeway.runtime import MODEL_FILE
from causeway.training.dataset import Split

PARENT = "fp32"
"""What the parent is called beside its variants."""


@dataclass(frozen=True)
class Judged:
    """A variant, and what became of it."""

    name: str
    figures: Figures | None = None
    """None where there was nothing to make."""
    reasons: list[str] = field(default_factory=list)
    """Why it is refused."""
    tag: str | None = None
    """Of the version, where it was saved."""


def study(
    parent: Parent, parts: Split, kinds: Sequence[Kind], tell: Callable[[str], None], *, is_dry_run: bool = False
) -> list[Judged]:
    """The parent, then a variant of each of `kinds`, in their order. tell: hears what is being done."""
    models, faults = {PARENT: parent.model}, {}
    for kind in kinds:
        tell(f"Making {kind.name}")
        try:
            model = kind.make(parent.model, parts.train.X)
            runtime = opened(model)
            for n_rows in BATCHES:
                runtime.run(np.resize(parts.train.X, (n_rows, parts.train.X.shape[1])))
            models[kind.name] = model
        except NotMade as exc:
            faults[kind.name] = str(exc)
        except Exception as exc:
            # ONNX's tools raise errors of their own, and plain ones, for graphs that they do not know.
            faults[kind.name] = f"it could not be made ({type(exc).__name__}: {' '.join(str(exc).split())})"
    figures = measure(models, PARENT, parts.test, parent.working.threshold, tell)
    of_parent = figures[PARENT]
    found = [Judged(PARENT, of_parent)]
    for kind in kinds:
        if kind.name in faults:
            found.append(Judged(kind.name, reasons=[faults[kind.name]]))
            continue
        own, tag = figures[kind.name], None
        output, limits = parent.contract_in(kind.precision).output, gate.Limits()
        reasons = gate.reasons(own, of_parent, output, limits)
        network = {} if reasons else parent.network_in(kind.precision)
        in_torch = None
        if network:
            tell(f"Scoring the held-out rows by {kind.name} in torch")
            by_parent = scores(opened(parent.model), parts.test.X)
            in_torch = scoring(open_network(network), by_parent, parts.test, parent.working.threshold)
            reasons = [f"in torch, {reason}" for reason in gate.harm(in_torch, of_parent, output, limits)]
        if not reasons and not is_dry_run:
            tell(f"Saving {kind.name}")
            try:
                made = Made(kind, {**network, MODEL_FILE: models[kind.name]}, own, in_torch)
                tag = save(made, parent, of_parent, parts)
            except errors.VersionRefused as exc:
                reasons = [f"saved, it would be refused: {exc.reason}"]
        found.append(Judged(kind.name, own, reasons, tag))
    return found
