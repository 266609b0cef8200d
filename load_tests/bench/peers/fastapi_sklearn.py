"""FastAPI around a scikit-learn model, as a tutorial would: pydantic in, pydantic out, `def`, default uvicorn."""

import os
from pathlib import Path

import joblib
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
model = joblib.load(Path(os.environ["BENCH_FOLDER"], "model.joblib"))


class Transactions(BaseModel):
    """The request."""

    features: list[list[float]]


class Scores(BaseModel):
    """The answer."""

    predictions: list[list[float]]


@app.post("/predict")  # type: ignore[untyped-decorator]
def predict(transactions: Transactions) -> Scores:
    """Probability of fraud, one a row."""
    scores = model.predict_proba(np.array(transactions.features))[:, 1:]
    return Scores(predictions=scores.tolist())
