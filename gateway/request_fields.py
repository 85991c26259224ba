"""What reading any request to a model shares: a bounded body, fields nobody may send, and fields of a known type. Pure.

Every fault is a `RequestError` that names the field and says what it must be. Unknown fields are left alone: they travel
on, except those that could steer the upstream, the payer or the books.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.errors import RequestError

_LARGE_BODY_BYTES = 2**20
_VALUES_MAX = 1_000_000
"""Objects, arrays and commas in a large body; the longest prompts of today have a tenth of it."""
_NAME_CHARS_MAX = 64
"""A field's name is repeated to the caller up to this length."""
_SHORT_TEXT_CHARS_MAX = 64

_STEERING = frozenset(
    """
    allow_client_keepalive_override allowed_model_region allowed_openai_params
    anthropic_disable_workload_identity_federation
    anthropic_organization_id anthropic_service_account_id api_base api_key api_type api_version apikey
    attempted_targets azure azure_ad_token azure_ad_token_provider base_model base_url bucket_name budget_duration
    cache_key caching callbacks client client_id client_secret client_side_timeout complete_response
    configurable_clientside_auth_params context_window_fallback_dict cooldown_time cost_per_query cost_per_second
    custom_llm_provider custom_pricing data_residency default_headers deployment_id drop_params extra_body
    extra_headers extra_query failure_callback fallback_depth fallbacks force_timeout headers hf_model_name itpm
    log_client_error_tracebacks logger_fn max_budget max_fallbacks max_parallel_requests max_retries model_alias_map
    model_config model_file_id_mapping model_id model_info model_list models no-log no_log num_retries
    openai_service_account_id organization otpm plugins predibase_tenant_id preset_cache_key project provider
    provider_affinity_header provider_specific_header proxy proxy_server_request region_name request_timeout
    retry_policy retry_strategy route routing_strategy rpm rust secret_fields shared_session silent_model ssl_verify
    stream_timeout stream_timeout_by_service_tier success_callback tenant_id tiered_pricing timeout
    timeout_by_service_tier tpm turn_off_message_logging url use_chat_completions_api use_client use_in_pass_through
    use_litellm_proxy use_xai_oauth user_api_key user_config verbose
    """.split()
)
"""Words of litellm's calls (tests/fixtures/litellm_parameters.txt has all of them) and of OpenRouter (`models`, `provider`,
`route`, `plugins`) by which a body could choose another host, key, model, payer, price or log further up."""
BASE_TIERS = frozenset({"", "auto", "default", "standard", "flex"})
"""Service tiers that are never dearer than the base rate."""
_STEERING_PREFIXES = tuple(
    """
    _ adaptive_router_ annotation_cost_ anthropic_federation_ anthropic_identity_ anthropic_issuer_
    anthropic_keycloak_ arize_ auto_router_ aws_ azure_ cache_creation_input_ cache_read_input_ citation_cost_
    complexity_router_ dd_ default_api_key_ gcs_ gigachat_ google_maps_ humanloop_ input_cost_ langfuse_ langsmith_
    litellm_ milvus_ mock_ newrelic_ oci_ ocr_cost_ openai_identity_ output_cost_ posthog_ quality_router_ regional_
    s3_ sagemaker_ search_context_cost_ signoz_ valkey_ vertex_ wandb_ watsonx_ weave_ wx_
    """.split()
)


def parse_body(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`. Raises `RequestError`: 413 for more values than any prompt has, 400 for anything else."""
    if len(raw) > _LARGE_BODY_BYTES and sum(map(raw.count, b"{[,")) > _VALUES_MAX:
        # A few bytes of JSON can become a hundred of memory, and the event loop would stand still meanwhile.
        raise RequestError("The body holds too many values.", status=413, code="request_too_large")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise RequestError(
            f"The body is not valid JSON: {exc.msg} (position {exc.pos}).", code="invalid_json"
        ) from None
    if not isinstance(body, dict):
        raise wrong("body", "must be a JSON object")
    return body


def dump_body(body: object) -> bytes:
    """`body` as JSON. Raises `RequestError` where it is nested more deeply than can be written."""
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError:
        raise too_deep() from None


def refuse_steering(body: Mapping[str, Any], known: frozenset[str]) -> None:
    """Raises `RequestError` for a field that could choose host, key, payer or logging. `known` are the endpoint's own."""
    if known.issuperset(body):
        return
    for field in body.keys() - known:
        if field in _STEERING or field.startswith(_STEERING_PREFIXES):
            shown = field if len(field) <= _NAME_CHARS_MAX and field.isprintable() else "this field"
            raise RequestError(
                f"The field `{shown}` is not accepted: host, key, payer and logging are the gateway's.",
                code="unsupported_parameter",
                param=shown,
            )


def read_required_text(body: Mapping[str, Any], field: str) -> str:
    """A text of at least one character. Raises `RequestError`."""
    value = body.get(field)
    if not isinstance(value, str) or not value:
        raise wrong(field, "is required and must be a non-empty string", code="missing_required_parameter")
    return value


def read_integer(body: Mapping[str, Any], field: str, least: int, most: int) -> int | None:
    """A whole number within bounds, None if it is absent or null. Raises `RequestError`: `1.0` and `true` are none."""
    value = body.get(field)
    if value is None:
        return None
    if type(value) is not int or not least <= value <= most:
        raise wrong(field, f"must be an integer from {least} to {most}")
    return value


def read_boolean(body: Mapping[str, Any], field: str, name: str | None = None) -> bool:
    """False if it is absent or null; `name` is how the caller knows a nested field. Raises `RequestError`."""
    value = body.get(field)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise wrong(name or field, "must be true or false")
    return value


def read_object(body: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Empty if it is absent or null. Raises `RequestError`."""
    value = body.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong(field, "must be an object")
    return value


def read_short_text(body: Mapping[str, Any], field: str) -> str:
    """At most 64 characters; empty if it is absent or null. Raises `RequestError`."""
    value = body.get(field)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > _SHORT_TEXT_CHARS_MAX:
        raise wrong(field, f"must be a string of at most {_SHORT_TEXT_CHARS_MAX} characters")
    return value


def wrong(field: str, what: str, *, code: str = "invalid_value") -> RequestError:
    return RequestError(f"`{field}` {what}.", code=code, param=field)


def too_deep() -> RequestError:
    return RequestError("The body is nested too deeply.", code="invalid_json")


def unpriced_feature(field: str) -> RequestError:
    """For paid extras of a provider that no price row covers."""
    return RequestError(
        f"`{field}` asks for something the catalog has no price for, so it is refused.",
        code="unpriced_feature",
        param=field,
    )


def refuse_dear_tier(body: Mapping[str, Any]) -> None:
    """For endpoints whose providers sell no service tiers. Raises `RequestError` for one that may cost more than usual."""
    if read_short_text(body, "service_tier") not in BASE_TIERS:
        raise unpriced_feature("service_tier")
