"""Everything that Causeway refuses or fails at, each with the facts that explain it.

    CausewayError
    ├── Refusal                     a request that gets no prediction; has an HTTP status and a code
    │   ├── BadRequest (400)        malformed, or outside the model's contract
    │   │   ├── BodyNotJson, BodyNotAnObject, NameRepeated
    │   │   ├── FeaturesMissing, FeaturesAmbiguous, NoRows, FeaturesNot2D, RaggedRows, WrongWidth
    │   │   ├── NotANumber, NotFinite, NotAnInteger, OutOfRange
    │   │   ├── RowsNotObjects, UnknownName, MissingName
    │   │   ├── FeedbackInvalid
    │   │   └── InvalidHeader, CommandInvalid
    │   ├── Unauthorized (401)
    │   ├── NotFound, VersionNotLoaded, VersionUnknown (404)
    │   ├── MethodNotAllowed (405)
    │   ├── ChangeRefused, ChangeConflict, VersionUnfit, StateUnusable (409)
    │   ├── BodyTooLarge, TooManyRows (413)
    │   ├── UnsupportedMediaType (415)
    │   ├── ModelFailed, InternalError, ChangeUndone (500)
    │   ├── NotReady, DeviceLost, Overloaded, DeadlineUnreachable, DatabaseUnreachable (503)
    │   └── DeadlineExceeded (504)
    ├── ClientGone                  nobody waits for the answer any more
    ├── VersionRefused              a saved version that must not serve
    │   └── DigestMismatch, ContractBroken, EngineFailed, SamplesDiffer, BatchDependent
    ├── NoEngine                    what an engine needs is not on this machine
    ├── VersionNotFound             no such version in the model store
    ├── StateBroken                 a state file that says nothing that could be served
    ├── DatabaseUnusable            the prediction log cannot be opened
    ├── ReferenceBroken             a reference.json that drift cannot be measured against
    ├── NoExperiment                no version was compared with the champion
    ├── TableRefused                a training table that cannot be learnt from
    ├── GateFailed                  a trained model that is not good enough to be saved
    ├── FamilyFailed                a family's own code raised; its traceback is the cause
    ├── UnknownFamily, InvalidParam what `train_and_save.py` was asked for does not exist
    ├── InvalidSetting              an environment variable with a value that means nothing
    │   └── UnknownSetting          a variable that is almost a setting
    └── CallFailed                  the client got no answer
        └── Unreachable, CallTimedOut, UnexpectedAnswer

A class builds its message from facts and keeps them as attributes. A `Refusal` travels as one JSON object
(`body`), and `Refusal.from_body` makes the same object of it on the caller's side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

Fact = str | int | float | None | Sequence[str]


class CausewayError(Exception):
    """Base of all errors; `facts` are also readable as attributes."""

    def __init__(self, message: str, **facts: Fact) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["facts"][name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.message, self.__dict__.copy())


def _restored(cls: type[CausewayError], message: str, state: dict[str, Any]) -> CausewayError:
    """The error that was pickled, without asking its class for the facts again."""
    error = cls.__new__(cls, message)
    error.__dict__.update(state)
    return error


class Refusal(CausewayError):
    """A request that gets no prediction, with its HTTP status, a stable code and the facts."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "refused"
    request_id: str | None = None
    retry_after_s: float | None = None
    by_code: ClassVar[dict[str, type[Refusal]]] = {}

    def __init_subclass__(cls) -> None:
        if "code" in cls.__dict__:
            Refusal.by_code[cls.code] = cls

    def body(self, request_id: str) -> dict[str, Any]:
        """The JSON object that tells the caller: `error`, `code`, `request_id` and the facts."""
        return {"error": self.message, "code": self.code, "request_id": request_id, **self.facts}

    @staticmethod
    def from_body(status: int, body: Mapping[str, Any]) -> Refusal:
        """The refusal that a server sent as `body`; codes this version does not know become a plain `Refusal`."""
        cls = Refusal.by_code.get(str(body.get("code")), Refusal)
        refusal = cls.__new__(cls)
        CausewayError.__init__(refusal, str(body.get("error")))
        refusal.facts |= {name: value for name, value in body.items() if name not in ("error", "code", "request_id")}
        refusal.request_id = body.get("request_id")
        if cls is Refusal:
            refusal.__dict__.update(status=status, code=str(body.get("code")))
        return refusal


class BadRequest(Refusal):
    """The request is malformed or outside the model's contract; sending it again will not help."""

    status = 400


class BodyNotJson(BadRequest):
    """The body is not JSON in UTF-8."""

    code = "body_not_json"

    def __init__(self) -> None:
        super().__init__("The body must be JSON in UTF-8")


class BodyNotAnObject(BadRequest):
    """The body is JSON, but an array, a string, a number or null."""

    code = "body_not_an_object"

    def __init__(self) -> None:
        super().__init__('The body must be a JSON object: {"features": [[...], ...]} or {"rows": [{...}, ...]}')


class NameRepeated(BadRequest):
    """An object of the body has one name twice; which of the values was meant is anybody's guess."""

    code = "name_repeated"

    def __init__(self) -> None:
        super().__init__("The body has an object with the same name twice")


class FeaturesMissing(BadRequest):
    """The object has neither `features` nor `rows`."""

    code = "features_missing"

    def __init__(self) -> None:
        super().__init__('The body needs "features" (rows of numbers) or "rows" (objects by name)')


class FeaturesAmbiguous(BadRequest):
    """The object has both `features` and `rows`."""

    code = "features_ambiguous"

    def __init__(self) -> None:
        super().__init__('The body has both "features" and "rows"; send one of them')


class NoRows(BadRequest):
    """`features` or `rows` is an empty array."""

    code = "no_rows"

    def __init__(self) -> None:
        super().__init__("At least one row is needed")


class FeaturesNot2D(BadRequest):
    """`features` is not an array of arrays of numbers."""

    code = "features_not_2d"

    def __init__(self, row: int | None = None) -> None:
        where = "" if row is None else f"; row {row} is not an array of numbers"
        super().__init__(f"Features must be a 2-D array{where}", **({} if row is None else {"row": row}))


class RaggedRows(BadRequest):
    """Rows of `features` differ in width; `row` is the first that differs from row 0."""

    code = "features_ragged"

    def __init__(self, row: int, expected: int, got: int) -> None:
        super().__init__(
            f"Features must be a 2-D array; row {row} has {got} values where row 0 has {expected}",
            row=row,
            expected=expected,
            got=got,
        )


class WrongWidth(BadRequest):
    """Every row has the same width, but not the contract's."""

    code = "features_wrong_width"

    def __init__(self, expected: int, got: int) -> None:
        super().__init__(f"Each row must have {expected} values, got {got}", expected=expected, got=got)


def _place(row: int, column: int, name: str) -> str:
    return f"Row {row}, column {column} ({name})"


class NotANumber(BadRequest):
    """A value is a string, null, boolean, array or object."""

    code = "feature_not_a_number"

    def __init__(self, row: int, column: int, name: str, got: str) -> None:
        super().__init__(
            f"{_place(row, column, name)} must be a number, got {got}", row=row, column=column, name=name, got=got
        )


class NotFinite(BadRequest):
    """A value is NaN, infinite, or larger than any 64-bit float."""

    code = "feature_not_finite"

    def __init__(self, row: int, column: int, name: str) -> None:
        super().__init__(f"{_place(row, column, name)} must be a finite number", row=row, column=column, name=name)


class NotAnInteger(BadRequest):
    """A value of an integer feature has a fractional part."""

    code = "feature_not_an_integer"

    def __init__(self, row: int, column: int, name: str) -> None:
        super().__init__(f"{_place(row, column, name)} must be a whole number", row=row, column=column, name=name)


class OutOfRange(BadRequest):
    """A value is outside the hard range that the contract gives the feature."""

    code = "feature_out_of_range"

    def __init__(self, row: int, column: int, name: str, minimum: float, maximum: float) -> None:
        super().__init__(
            f"{_place(row, column, name)} must be between {minimum:.15g} and {maximum:.15g}",
            row=row,
            column=column,
            name=name,
            minimum=minimum,
            maximum=maximum,
        )


class RowsNotObjects(BadRequest):
    """`rows` is not an array of objects."""

    code = "rows_not_objects"

    def __init__(self, row: int | None = None) -> None:
        where = "" if row is None else f"; row {row} is not"
        super().__init__(f'"rows" must be an array of objects{where}', **({} if row is None else {"row": row}))


class UnknownName(BadRequest):
    """A row has a name that the contract does not; the name itself is not echoed."""

    code = "row_unknown_name"

    def __init__(self, row: int, suggestion: str | None) -> None:
        hint = f'; did you mean "{suggestion}"?' if suggestion else ""
        super().__init__(f"Row {row} has a name that the contract does not know{hint}", row=row, suggestion=suggestion)


class MissingName(BadRequest):
    """A row lacks a feature of the contract."""

    code = "row_missing_name"

    def __init__(self, row: int, column: int, name: str) -> None:
        super().__init__(f'Row {row} lacks "{name}"', row=row, column=column, name=name)


class InvalidHeader(BadRequest):
    """A request header has a value that means nothing."""

    code = "header_invalid"

    def __init__(self, header: str, expected: str) -> None:
        super().__init__(f"{header} must be {expected}", header=header)


class CommandInvalid(BadRequest):
    """The body of a command under /admin/ is not what the command takes."""

    code = "command_invalid"

    def __init__(self, expected: str, fault: str) -> None:
        super().__init__(f"The body must be a JSON object with {expected}: {fault}", fault=fault)


class FeedbackInvalid(BadRequest):
    """The body of POST /feedback is not what that takes; of many, `entry` is the first at fault."""

    code = "feedback_invalid"

    def __init__(self, reason: str, entry: int | None = None) -> None:
        where, facts = ("", {}) if entry is None else (f"Entry {entry}: ", {"entry": entry})
        super().__init__(f"{where}{reason}", **facts)


class NotFound(Refusal):
    """Nothing is served under this path."""

    status = 404
    code = "not_found"

    def __init__(self, endpoints: Sequence[str]) -> None:
        super().__init__("Nothing is served under this path", endpoints=list(endpoints))


class VersionNotLoaded(Refusal):
    """X-Model-Version names a version that this service does not serve; `loaded` are those that it does."""

    status = 404
    code = "version_not_loaded"

    def __init__(self, loaded: Sequence[str]) -> None:
        super().__init__(f"X-Model-Version names none of the versions here: {', '.join(loaded)}", loaded=list(loaded))


class Unauthorized(Refusal):
    """No bearer token, or not the right one."""

    status = 401
    code = "unauthorized"

    def __init__(self) -> None:
        super().__init__("Send the admin token as Authorization: Bearer TOKEN")


class MethodNotAllowed(Refusal):
    """The path exists, but not for this method."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, allow: Sequence[str]) -> None:
        super().__init__(f"This endpoint takes {' or '.join(allow)}", allow=list(allow))


class ChangeRefused(Refusal):
    """A change of the deployment that its state does not allow."""

    status = 409
    code = "change_refused"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class ChangeConflict(Refusal):
    """Somebody else changed the deployment, or is doing so; `who` and what they do."""

    status = 409
    code = "change_conflict"

    def __init__(self, who: str, action: str) -> None:
        super().__init__(f"{who} was first: {action}", who=who, action=action)


class VersionUnfit(Refusal):
    """The version may not get traffic: it does not load, or does not take what the champion takes."""

    status = 409
    code = "version_unfit"

    def __init__(self, tag: str, reason: str) -> None:
        super().__init__(f"{tag} may not get traffic: {reason}", tag=tag, reason=reason)


class StateUnusable(Refusal):
    """The state file cannot be read or written; what is served goes on being served."""

    status = 409
    code = "state_unusable"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} cannot be changed: {reason}", path=path, reason=reason)


class VersionUnknown(Refusal):
    """The model store has no such version."""

    status = 404
    code = "version_unknown"

    def __init__(self, tag: str) -> None:
        super().__init__(f"The model store has no version {tag}", tag=tag)


class ChangeUndone(Refusal):
    """A worker could not serve what was asked for; the deployment is as it was before."""

    status = 500
    code = "change_undone"

    def __init__(self, action: str, reason: str) -> None:
        super().__init__(f"{action} was undone: {reason}", action=action, reason=reason)


class BodyTooLarge(Refusal):
    """The body is larger than the service reads; refused before it was read to its end."""

    status = 413
    code = "body_too_large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The body must be at most {limit_bytes} bytes", limit_bytes=limit_bytes)


class TooManyRows(Refusal):
    """More rows than one request may have; so many values that they are not counted where `got` is missing."""

    status = 413
    code = "too_many_rows"

    def __init__(self, limit_rows: int, got: int | None = None) -> None:
        counted, facts = ("", {}) if got is None else (f", got {got}", {"got": got})
        super().__init__(f"At most {limit_rows} rows a request{counted}", limit_rows=limit_rows, **facts)


class UnsupportedMediaType(Refusal):
    """The body is not sent as plain JSON."""

    status = 415
    code = "unsupported_media_type"

    def __init__(self) -> None:
        super().__init__("Send the body as Content-Type: application/json, in UTF-8 and without Content-Encoding")


class ModelFailed(Refusal):
    """The model raised an error or returned something that is not a finite number; the log has the cause."""

    status = 500
    code = "model_failed"

    def __init__(self, model_version: str) -> None:
        super().__init__("The model could not score this request", model_version=model_version)


class InternalError(Refusal):
    """A fault of the service; the log has the cause under the request id."""

    status = 500
    code = "internal_error"

    def __init__(self) -> None:
        super().__init__("The service failed; its log has the cause under this request id")


class NotReady(Refusal):
    """No model version is serving."""

    status = 503
    code = "not_ready"

    def __init__(self, reason: str, retry_after_s: float = 1.0) -> None:
        super().__init__(f"No model is serving: {reason}", reason=reason)
        self.retry_after_s = retry_after_s


class DeviceLost(Refusal):
    """The device that the model runs on computes no more for this process, which ends; another one takes its place."""

    status = 503
    code = "device_lost"

    def __init__(self, device: str, reason: str) -> None:
        super().__init__(f"{device} is lost: {reason}", device=device, reason=reason)
        self.retry_after_s = 5.0


class Overloaded(Refusal):
    """So much work waits that this request would not be answered in its time; it was not begun."""

    status = 503
    code = "overloaded"

    def __init__(self, timeout_ms: float, wait_ms: float, retry_after_s: float) -> None:
        super().__init__(
            f"The queue is too long: an answer would take about {wait_ms:.0f} ms, {timeout_ms:g} ms are allowed",
            timeout_ms=timeout_ms,
            wait_ms=round(wait_ms),
        )
        self.retry_after_s = retry_after_s


class DeadlineUnreachable(Refusal):
    """The rows take longer than the request allows, although nothing else waits; it was not begun."""

    status = 503
    code = "deadline_unreachable"

    def __init__(self, timeout_ms: float, needed_ms: float) -> None:
        super().__init__(
            f"These rows take about {needed_ms:.0f} ms, {timeout_ms:g} ms are allowed: send fewer, or allow more",
            timeout_ms=timeout_ms,
            needed_ms=round(needed_ms),
        )
        self.retry_after_s = 1.0


class DeadlineExceeded(Refusal):
    """The answer was not ready within the time that the request allowed."""

    status = 504
    code = "deadline_exceeded"

    def __init__(self, timeout_ms: float) -> None:
        super().__init__(f"Not answered within {timeout_ms:g} ms", timeout_ms=timeout_ms)


class DatabaseUnreachable(Refusal):
    """The database of the prediction log does not answer; what was to be stored does not count as accepted."""

    status = 503
    code = "database_unreachable"

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("The database of the prediction log does not answer; nothing was stored")
        self.retry_after_s = retry_after_s


class ClientGone(CausewayError):
    """The client hung up before its request was answered."""

    def __init__(self) -> None:
        super().__init__("The client hung up")


class VersionRefused(CausewayError):
    """A saved version that must not serve."""

    def __init__(self, tag: str, reason: str, **facts: Fact) -> None:
        super().__init__(f"Version {tag} is refused: {reason}", tag=tag, reason=reason, **facts)


class DigestMismatch(VersionRefused):
    """A file is not what was saved: missing, changed, or never recorded."""

    def __init__(self, tag: str, file: str, problem: str) -> None:
        super().__init__(tag, f"{file} {problem}", file=file)


class ContractBroken(VersionRefused):
    """contract.json cannot be read, or the engine's inputs and outputs do not fit it."""


class EngineFailed(VersionRefused):
    """The engine cannot open or run the model file."""


class SamplesDiffer(VersionRefused):
    """The replayed samples do not give the predictions that were saved with them."""

    def __init__(self, tag: str, worst: float, tolerance: float) -> None:
        reason = f"its samples differ from the saved predictions by {worst:.3g}, more than {tolerance:g}"
        super().__init__(tag, reason, worst=worst, tolerance=tolerance)


class BatchDependent(VersionRefused):
    """A row's prediction depends on the rows that share its batch: requests would change each other's answers."""

    def __init__(self, tag: str, worst: float, tolerance: float) -> None:
        reason = f"predictions change by {worst:.3g} with the rows beside them, more than {tolerance:g}"
        super().__init__(tag, reason, worst=worst, tolerance=tolerance)


class NoEngine(CausewayError):
    """What an engine needs, or all that could run a version, is not on this machine."""


class VersionNotFound(CausewayError):
    """No such version in the model store."""

    def __init__(self, tag: str) -> None:
        super().__init__(
            f"The model store has no version {tag}; `bentoml models list` shows what it has, and "
            f"`make train FAMILY=...` trains the file in models/ that has NAME {tag.partition(':')[0]}",
            tag=tag,
        )


class StateBroken(CausewayError):
    """A state file that says nothing that could be served, and why."""


class DatabaseUnusable(CausewayError):
    """The database of the prediction log cannot be opened; `url` is without its password."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"The database {url} cannot be used: {reason}", url=url)


class ReferenceBroken(CausewayError):
    """A reference.json that drift cannot be measured against."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"reference.json is no reference for drift: {reason}", reason=reason)


class NoExperiment(CausewayError):
    """No version with a share beside the champion, now or in the audit log."""

    def __init__(self, role: str | None) -> None:
        missing = f"no {role}" if role else "neither a challenger nor a canary"
        super().__init__(f"There is nothing to compare: {missing} was ever deployed beside a champion", role=role)


class TableRefused(CausewayError):
    """A training table that cannot be learnt from; the message says what to do."""


class GateFailed(CausewayError):
    """A trained model that is not good enough to be saved, with every reason."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("The model is not saved: " + "; ".join(reasons), reasons=list(reasons))


class FamilyFailed(CausewayError):
    """A family's own code raised while it did `step`; the cause is its error."""

    def __init__(self, family: str, step: str, cause: Exception) -> None:
        message = f"models/{family}.py failed {step}: {type(cause).__name__}: {cause}"
        super().__init__(message, family=family, step=step)


class UnknownFamily(CausewayError):
    """No file of that name in models/ has the surface of a model family."""

    def __init__(self, name: str, known: Sequence[str], problem: str = "") -> None:
        there_are = ", ".join(known)
        super().__init__(f"No model family {name!r}{problem}; there are: {there_are}", name=name, known=list(known))


class InvalidParam(CausewayError):
    """A hyper-parameter that the family does not have, or a value that it cannot take."""


class InvalidSetting(CausewayError):
    """An environment variable with a value that means nothing."""

    def __init__(self, variable: str, value: str, expected: str) -> None:
        super().__init__(f"{variable}={value!r}: must be {expected}", variable=variable, value=value, expected=expected)


class UnknownSetting(InvalidSetting):
    """A CAUSEWAY_* variable that looks like a setting and is none; its value is not repeated."""

    def __init__(self, variable: str, suggestion: str) -> None:
        message = f"{variable} is no setting; did you mean {suggestion}?"
        CausewayError.__init__(self, message, variable=variable, suggestion=suggestion)


class CallFailed(CausewayError):
    """The client got no answer to a request."""


class Unreachable(CallFailed):
    """No connection to the service, or it broke before an answer came."""

    def __init__(self, url: str, request_id: str, cause: str) -> None:
        super().__init__(f"{url} did not answer: {cause}", url=url, request_id=request_id)


class CallTimedOut(CallFailed):
    """The client's own timeout ran out."""

    def __init__(self, url: str, request_id: str) -> None:
        super().__init__(f"{url} did not answer in time", url=url, request_id=request_id)


class UnexpectedAnswer(CallFailed):
    """Something answered that does not speak the wire contract: a proxy, or another service."""

    def __init__(self, url: str, request_id: str, status: int, retry_after_s: float | None = None) -> None:
        message = f"{url} answered {status} outside the wire contract"
        super().__init__(message, url=url, request_id=request_id, status=status, retry_after_s=retry_after_s)
