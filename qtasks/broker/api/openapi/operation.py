"""One operation of the document, and the answers that all operations have in common.

What depends on who may call it follows from the same marks that its route bears: a test holds the two
equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qtasks.broker.api.openapi.schemas import Json, ref

OK_EMPTY: Mapping[int, Json | None] = {200: None}
_JSON = "application/json"
_STATUS_NAMES = {200: "Done", 201: "Made", 202: "A duplicate; nothing was stored"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path.

    `route` is the path as the router has it and `path` as the document shows it, if that is another.
    `answers` are the successes, None for an empty body, and `refusals` the 4xx beside those that follow from
    the marks, which are the route's. `parameters` and `body` are names of the document's components.
    """

    method: str
    route: str
    path: str = ""
    id: str
    tag: str
    summary: str
    answers: Mapping[int, Json | None]
    refusals: tuple[int, ...] = (400,)
    parameters: tuple[str, ...] = ()
    body: str = ""
    is_body_required: bool = False
    stores: bool = False
    is_open: bool = False
    secret: bool = False
    publishes: bool = False
    extra: bool = False
    reads: bool = False
    media_type: str = _JSON

    @property
    def template(self) -> str:
        """The path as the document shows it."""
        return self.path or self.route.replace("...}", "}")

    @property
    def is_extra(self) -> bool:
        """Whether hosted QStash does not have it, nor has a strict broker."""
        return self.extra or self.route.startswith("/qtasks/")

    @property
    def needs_full(self) -> bool:
        """Whether a token that may only read does not do."""
        return not self.is_open and (self.secret or (self.method != "GET" and not self.reads))

    def to_json(self, *, strict: bool) -> Json:
        """Make the operation object; a strict broker does not know our headers."""
        known = [each for each in self.parameters if not (strict and each.startswith("Qtasks-"))]
        made: Json = {
            "operationId": self.id,
            "tags": [self.tag],
            "summary": self.summary,
            "responses": {str(status): answer for status, answer in self._responses(strict).items()},
        }
        if known:
            made["parameters"] = [{"$ref": f"#/components/parameters/{each}"} for each in known]
        if self.body:
            made["requestBody"] = _request(self.body, required=self.is_body_required)
        if self.is_open:
            made["security"] = []
        return made

    def _responses(self, strict: bool) -> dict[int, Json]:
        statuses = {*self.refusals, 503}
        if not self.is_open:
            statuses.add(401)
            if self.needs_full:
                statuses.add(403)
            if not self.publishes:
                statuses.add(429)
            if self.stores and not strict:
                statuses.add(507)
        answers = {
            status: _answer(status, schema, self.media_type) for status, schema in self.answers.items()
        }
        shared = {
            each: {"$ref": f"#/components/responses/{_SHARED[each]}"}
            for each in sorted(statuses - answers.keys())
        }
        return answers | shared


def _request(name: str, *, required: bool) -> Json:
    if name == "any":
        return {
            "description": "The body of the message, of any type; it is passed on unchanged.",
            "content": {"*/*": {"schema": {}}},
        }
    return {"required": required, "content": {_JSON: {"schema": ref(name)}}}


def _answer(status: int, schema: Json | None, media_type: str) -> Json:
    made: Json = {"description": _STATUS_NAMES.get(status, "Not now")}
    return made if schema is None else made | {"content": {media_type: {"schema": schema}}}


def _error(about: str, **headers: Json) -> Json:
    made: Json = {"description": about, "content": {_JSON: {"schema": ref("Error")}}}
    if headers:
        made["headers"] = {name.replace("_", "-"): {"schema": schema} for name, schema in headers.items()}
    return made


_WHOLE: Json = {"type": "integer", "minimum": 0}
_SHARED = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    412: "QuotaExceeded",
    429: "TooManyRequests",
    503: "Unavailable",
    507: "Full",
}
RESPONSES: dict[str, Json] = {
    "BadRequest": _error("Something in the request is malformed, or contradicts itself. Nothing was stored."),
    "Unauthorized": _error("The token is missing or unknown."),
    "Forbidden": _error("The token may only read."),
    "NotFound": _error("There is nothing of that name or id."),
    "QuotaExceeded": _error("A limit of the broker is exceeded. Nothing was stored."),
    "TooManyRequests": _error(
        "More requests than the broker allows each token in a second; publishing is not counted.",
        **dict.fromkeys(
            ("Burst_RateLimit_Limit", "Burst_RateLimit_Remaining", "Burst_RateLimit_Reset"),
            _WHOLE,
        ),
    ),
    "Unavailable": _error(
        "The broker cannot do it now: repeat after `Retry-After`, in seconds.",
        Retry_After={"type": "number", "minimum": 0},
    ),
    "Full": _error("The store has no room left. Nothing was stored."),
}
