"""The back door: data in, a versioned and gated model out.

On simulated transactions: `python train_and_save.py gradient_boosting`; on your own table, with
`--data FILE.parquet --label COLUMN`.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import models
from causeway import errors, store
from causeway.drift.calibration import Samples, calibrate
from causeway.runtime import MODEL_FILE, open_runtime
from causeway.settings import Settings
from causeway.training import calibration, gate, provenance, report, tables
from causeway.training.dataset import Dataset, Split, Trained, split
from causeway.training.evaluation import Evaluation, evaluate, train_baseline
from causeway.training.params import parse_params
from causeway.training.samples import samples
from causeway.version import ModelVersion

ROOT = Path(__file__).parent


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; 0 when a version was saved (or was there already), 130 after Ctrl-C, otherwise 1."""
    parser = _parser()
    args = parser.parse_args(argv)
    if (args.data is None) != (args.label is None):
        parser.error("--data and --label belong together")
    if args.data is None and (args.time or args.entity):
        parser.error("--time and --entity are columns of --data")
    try:
        family = models.family(args.family)
        if models.needs_teacher(family) and args.teacher is None:
            parser.error(f"{args.family} learns from another model's scores; name its tag with --teacher")
        if args.teacher is not None and not models.needs_teacher(family):
            parser.error(f"{args.family} learns from no teacher; leave --teacher out")
        tag = _stored(family.NAME) if args.if_missing else None
        if tag is None:
            tag = save(family, args)
        if args.tag_file is not None:
            args.tag_file.write_text(f"{tag}\n")
    except errors.CausewayError as exc:
        if isinstance(exc, errors.FamilyFailed):
            traceback.print_exception(exc.__cause__)
        _say(f"Refused. {exc.message}")
        return 1
    except KeyboardInterrupt:
        _say("Interrupted; nothing was saved")
        return 128 + signal.SIGINT
    return 0


def save(family: models.Family, args: argparse.Namespace) -> str:
    """Data, split, fit, export, evaluation, gate, store: the tag of the saved version."""
    params = parse_params(family.Params, args.set)
    with _step(args.family, "to give its data"):
        data = _data(family, args)
    parts = split(data, delay_days=args.delay_days, test_days=args.test_days, seed=args.seed)
    facts = _facts(args, params, data, parts)
    if args.teacher is not None:
        teacher = _teacher(args.teacher, family, facts)
        _say(f"Asking {teacher.tag} for its scores")
        parts = _taught(parts, teacher)
        facts["teacher"] = teacher.tag
    _say(f"Training {args.family} on {len(parts.train)} rows ({parts.how})")
    with _step(args.family, "to train"):
        trained = family.train(parts.train, params, args.seed)
        _say("Training it on parts of the rows, for the working threshold and calibration")
        working = calibration.working(lambda part: family.train(part, params, args.seed), parts.train, args.seed)
    baseline = train_baseline(parts.train)

    _say(f"Evaluating on {len(parts.test)} rows")
    with _step(args.family, "to predict the test rows"):
        evaluation = evaluate(trained, baseline, parts.test, working)
    print(report.metrics_table(evaluation), flush=True)

    _say("Exporting and comparing")
    with _step(args.family, "to export a model that runs"):
        model = family.to_artifact(trained)
        others = models.to_files(family, trained)
        measured = _measure(model, parts.test, trained)
    gate.check(evaluation, measured, family.CONTRACT.output, gate.Limits())

    files = others | _files(family, args.family, trained, model, parts, evaluation, measured, facts)
    quality = {name: value for name, value in dataclasses.asdict(evaluation.model).items() if value is not None}
    labels = {"family": args.family, "use-case": family.NAME, "format": Path(MODEL_FILE).suffix.strip(".")}
    metadata = {**facts, "quality": quality}
    tag = store.save(family.NAME, files, labels=labels, metadata=metadata, accept=ModelVersion.load)
    is_default = Settings.model == f"{family.NAME}:latest"
    _say(f"Saved {tag}; serve it with: {'' if is_default else f'CAUSEWAY_MODEL={tag} '}bentoml serve")
    _say(f"Where another version is deployed: causeway promote {tag}")
    return tag


@contextmanager
def _step(family: str, step: str) -> Iterator[None]:
    """Tells an error of the family's own code from a refusal of ours."""
    try:
        yield
    except errors.CausewayError:
        raise
    except Exception as exc:
        raise errors.FamilyFailed(family, step, exc) from exc


def _data(family: models.Family, args: argparse.Namespace) -> Dataset:
    if args.data is None:
        _say("Preparing the family's own data")
        return family.default_data(args.seed)
    _say(f"Reading {args.data}")
    columns = {name: column for name, column in (("time", args.time), ("entity", args.entity)) if column is not None}
    return models.dataset(family, tables.read(args.data), args.label, args.data.name, **columns)


def _teacher(tag: str, family: models.Family, facts: Mapping[str, Any]) -> ModelVersion:
    """The version that is to teach. Raises `VersionRefused` where it cannot, or may have seen the rows to test on."""
    stored = store.find(tag)
    teacher = ModelVersion.load(stored)
    narrower = teacher.contract.narrower_than(family.CONTRACT)
    if narrower is not None:
        raise errors.VersionRefused(teacher.tag, f"it cannot teach this family: {narrower}")
    if stored.metadata.get("data_sha256") == facts["data_sha256"] and stored.metadata.get("split") != facts["split"]:
        reason = f"it was trained on rows that would be for testing now. It was split {stored.metadata.get('split')}"
        raise errors.VersionRefused(teacher.tag, f"{reason}; give the same --delay-days, --test-days and --seed")
    return teacher


def _taught(parts: Split, teacher: ModelVersion) -> Split:
    """The parts, with the teacher's scores for the rows to train on."""
    scores = gate.predictions_of(teacher.runtime, parts.train.X)[:, 0].astype(np.float64)
    return dataclasses.replace(parts, train=dataclasses.replace(parts.train, teacher_scores=scores))


def _measure(model: bytes, test: Dataset, trained: Trained) -> gate.Measured:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, MODEL_FILE).write_bytes(model)
        return gate.measure(open_runtime(Path(folder)), model, test.X, trained.predict(test.X))


def _facts(args: argparse.Namespace, params: Any, data: Dataset, parts: Split) -> dict[str, Any]:
    return {
        "data": data.source,
        "data_sha256": data.fingerprint(),
        "split": parts.how,
        "delay_days": args.delay_days,
        "test_days": args.test_days,
        "params": dataclasses.asdict(params),
        "seed": args.seed,
        "commit": provenance.commit(ROOT),
        "versions": provenance.versions(),
    }


def _files(
    family: models.Family,
    family_name: str,
    trained: Trained,
    model: bytes,
    parts: Split,
    evaluation: Evaluation,
    measured: gate.Measured,
    facts: dict[str, Any],
) -> dict[str, bytes]:
    train, test = parts.train, parts.test
    columns = (*family.CONTRACT.names, family.CONTRACT.output.name)
    reference = calibrate(columns, Samples(train.X, test.X, trained.predict(test.X), test.time), facts["seed"])
    card = report.model_card(
        name=family.NAME,
        family=family_name,
        description=(family.__doc__ or "").strip(),
        contract=family.CONTRACT,
        evaluation=evaluation,
        measured=measured,
        facts=facts,
    )
    return {
        MODEL_FILE: model,
        "contract.json": family.CONTRACT.to_json(),
        "reference.json": reference.to_json(),
        "evaluation.json": report.to_json({**evaluation.to_dict(), "exported": dataclasses.asdict(measured)}),
        "samples.json": report.to_json(samples(test, trained)),
        "MODEL_CARD.md": card.encode(),
    }


def _stored(name: str) -> str | None:
    """The tag of the newest version of `name`, None without any. Raises `VersionRefused` if it must not serve."""
    try:
        version = ModelVersion.load(store.find(f"{name}:latest"))
    except errors.VersionNotFound:
        _say(f"The model store has no version of {name} yet")
        return None
    except errors.VersionRefused as exc:
        what_to_do = f"Restore it, or remove its folder from models/{name} in BENTOML_HOME, and run this again"
        raise errors.VersionRefused(exc.tag, f"{exc.reason}. {what_to_do}") from exc
    _say(f"{version.tag} is in the store already")
    return version.tag


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Trains, evaluates, gates and saves a model.")
    parser.add_argument("family", help="a file in models/, without .py")
    parser.add_argument("--data", type=Path, help="a .parquet or .csv file to train on, not the family's own")
    parser.add_argument("--label", help="the column of --data that holds 0 or 1")
    parser.add_argument("--time", help="the column of --data that says when a row happened, if not the family's own")
    parser.add_argument("--entity", help="the column that says whose it is, if not the family's own")
    parser.add_argument("--teacher", metavar="TAG", help="the saved version to learn from, where the family does that")
    parser.add_argument("--seed", type=_whole(0), default=0, help="seed of data, split and training (default 0)")
    parser.add_argument("--delay-days", type=_whole(0), default=7, help="days until labels are known (default 7)")
    parser.add_argument(
        "--test-days", type=_whole(1), default=7, help="days to test on, if the data has times (default 7)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="PARAM=VALUE", help="a hyper-parameter")
    parser.add_argument("--if-missing", action="store_true", help="train only if the store has no version")
    parser.add_argument("--tag-file", type=Path, help="a file to write the tag to, of the version saved or found")
    return parser


def _whole(minimum: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text) if text.isdigit() else -1
        if not minimum <= value < 2**32:
            raise argparse.ArgumentTypeError(f"must be a whole number from {minimum}")
        return value

    return number


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
