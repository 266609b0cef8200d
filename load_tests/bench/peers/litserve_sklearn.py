"""LitServe around a scikit-learn model, as its documentation shows: a LitAPI with its four methods, one worker."""

import os
import sys
from pathlib import Path
from typing import Any

import joblib
import litserve
import numpy as np


class FraudAPI(litserve.LitAPI):  # type: ignore[misc]
    """Scores the rows of one request."""

    def setup(self, device: str) -> None:
        """Loads the model, once in each worker."""
        self.model = joblib.load(Path(os.environ["BENCH_FOLDER"], "model.joblib"))

    def decode_request(self, request: dict[str, Any]) -> Any:
        """The rows as an array."""
        return np.array(request["features"])

    def predict(self, X: Any) -> Any:
        """Probability of fraud, one a row."""
        return self.model.predict_proba(X)[:, 1:]

    def encode_response(self, predictions: Any) -> dict[str, Any]:
        """The answer."""
        return {"predictions": predictions.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(FraudAPI(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
