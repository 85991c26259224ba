"""Which codes an error may have, by status, in groups that operations share. What each means is in the README."""

Code = tuple[int, str]


def _codes(status: int, *codes: str) -> tuple[Code, ...]:
    return tuple((status, code) for code in codes)


ANY = (*_codes(500, "internal_error"), *_codes(503, "store_unavailable", "shutting_down"))
"""Of everything that is no file."""
READS = (*_codes(400, "invalid_value", "unknown_parameter"), *_codes(503, "query_timeout"))
"""Of what has a query string."""
FORM = (
    *_codes(400, "invalid_json", "invalid_value"),
    *_codes(413, "request_too_large"),
    *_codes(422, "unknown_field"),
)
"""Of a body in which every field is known."""
CREATOR = (
    *ANY,
    *_codes(401, "invalid_api_key"),
    *_codes(
        403,
        "act_for_not_allowed",
        "address_not_allowed",
        "creator_inactive",
        "creator_unknown",
        "key_paused",
        "overrides_unusable",
    ),
)
"""Of everything that takes a virtual key."""
ADMIN = (*ANY, *_codes(401, "invalid_api_key"), *_codes(403, "role_not_allowed"))
COUNTED = (*_codes(400, "invalid_json", "invalid_value"), *_codes(413, "request_too_large"), *_codes(503, "overloaded"))
"""Of bodies that are read among the calls in flight."""
IDEMPOTENT = (
    *_codes(409, "idempotency_in_progress", "idempotency_result_unavailable"),
    *_codes(422, "idempotency_key_reused"),
)
CALL = (
    *CREATOR,
    *IDEMPOTENT,
    *_codes(
        400,
        "context_length_exceeded",
        "endpoint_not_supported",
        "invalid_value",
        "missing_required_parameter",
        "unpriced_feature",
        "unpriced_model",
        "unsupported_endpoint",
        "unsupported_parameter",
    ),
    *_codes(403, "endpoint_not_allowed", "model_not_allowed", "tier_not_allowed"),
    *_codes(404, "model_not_found"),
    *_codes(405, "method_not_allowed"),
    *_codes(408, "request_timeout"),
    *_codes(413, "request_too_large"),
    *_codes(415, "unsupported_encoding"),
    *_codes(429, "insufficient_quota", "rate_limit_exceeded", "request_too_large"),
    *_codes(502, "provider_unavailable", "provider_unreachable", "upstream_died", "upstream_error", "upstream_invalid"),
    *_codes(503, "circuit_open", "overloaded"),
    *_codes(504, "upstream_timeout"),
)
"""Of every call that a model answers."""
JSON_CALL = (*CALL, *_codes(400, "invalid_json"))
FORM_CALL = (*CALL, *_codes(400, "invalid_form"), *_codes(415, "unsupported_media_type"))
CHECKED = _codes(502, "schema_mismatch")
KEPT = _codes(
    400,
    "mutually_exclusive_parameters",
    "previous_response_elsewhere",
    "previous_response_not_found",
    "too_much_kept",
    "item_not_found",
)
"""Of responses that continue others."""
CREATOR_MISSING = _codes(404, "creator_not_found")
KEY_MISSING = _codes(404, "key_not_found")
MISSING = _codes(404, "not_found")
CONVERSATION = (
    *_codes(400, "unknown_parameter", "too_many_conversations", "too_much_kept"),
    *_codes(404, "conversation_not_found", "item_not_found"),
)
RESPONSE_MISSING = _codes(404, "response_not_found")
NOT_CANCELLABLE = _codes(400, "response_not_cancellable")
GENERATION_MISSING = _codes(404, "generation_not_found")
MODEL_MISSING = _codes(404, "model_not_found")
ASSET = (
    *_codes(403, "invalid_signature", "url_expired"),
    *_codes(404, "asset_not_found"),
    *_codes(503, "asset_unavailable"),
)
PLAN = (*_codes(400, "plan_unknown"), *_codes(409, "conflict"))
NEW_CREATOR = _codes(409, "creator_exists")
KEY_MADE = _codes(409, "key_exists")
ROTATED = _codes(409, "key_not_live", "key_exists")
LAST_OWNER = _codes(409, "last_owner")
GRANT = (*_codes(400, "package_unknown"), *_codes(409, "idempotency_conflict"))
ADJUSTMENT = _codes(409, "idempotency_conflict", "credits_insufficient")
REFUND = (*_codes(400, "not_refundable"), *_codes(409, "idempotency_conflict", "refund_exceeds_charge"))
CLOSING = _codes(409, "calls_open", "month_not_over")
NO_TARGETS = _codes(409, "no_notice_targets")
RELOAD = _codes(422, "config_invalid")
NOTHING_SAID = _codes(400, "missing_required_parameter")
ESTIMATE = (
    *_codes(400, "unpriced_feature", "unpriced_model", "unsupported_parameter", "endpoint_not_supported"),
    *MODEL_MISSING,
)
