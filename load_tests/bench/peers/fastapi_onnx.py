"""FastAPI around ONNX Runtime, as an expert would who knows what costs: no pydantic, no threads, no response model.

msgspec decodes and checks the body, one intra-op thread computes on the event loop (a row takes microseconds), orjson
writes the array; uvloop and httptools below, no access log.
"""

import os
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import orjson
from fastapi import FastAPI, Request, Response


class Body(msgspec.Struct):
    """The request."""

    features: list[list[float]]


options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(
    str(Path(os.environ["BENCH_FOLDER"], "model.onnx")), options, providers=["CPUExecutionProvider"]
)
decode = msgspec.json.Decoder(Body).decode
app = FastAPI()


@app.post("/predict")  # type: ignore[untyped-decorator]
async def predict(request: Request) -> Response:
    """Probability of fraud, one a row."""
    try:
        X = np.array(decode(await request.body()).features, dtype=np.float32)
        if X.ndim != 2 or X.shape[1] != 15:
            raise ValueError("features must have 15 columns")
    except ValueError as exc:  # msgspec's errors are ValueErrors too
        return Response(orjson.dumps({"error": str(exc)}), 400, media_type="application/json")
    (predictions,) = session.run(["predictions"], {"features": X})
    answer = orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(answer, media_type="application/json")
