"""What people are told about an anomaly and what was done about it, with the figures that made it one.

Pure. A sentence names creator, feature and virtual keys by their ids, never by what somebody called them.
"""

from collections.abc import Sequence
from typing import Any

from gateway.ledger.anomalies import Anomaly, Finding
from gateway.ledger.hourly import ALL_FEATURES
from gateway.ledger.periods import rfc3339
from gateway.notices.base import Kind, Notice
from gateway.pricing import usd

__all__ = ["FIGURES", "anomaly_found", "creator_throttled", "key_paused"]

FIGURES = ("value", "median", "deviation", "often", "threshold")
"""Of a `Finding`, in the unit of its metric."""


def anomaly_found(anomaly: Anomaly) -> Notice:
    finding = anomaly.finding
    value, median, deviation, often, threshold = (_shown(finding, name) for name in FIGURES)
    if finding.metric == "calls":
        kind: Kind = "anomaly.request_rate"
        what = f"Creator '{finding.creator}' made {value} calls {_of_feature(finding)}"
    else:
        kind = "anomaly.cost"
        what = f"The calls of creator '{finding.creator}' {_of_feature(finding)} cost {value}"
    message = (
        f"{what} in the hour {finding.hour} (UTC), which is out of the usual: above {threshold}, as the median of its "
        f"{finding.hours} earlier hours with calls is {median}, their median absolute deviation {deviation} and their 95th "
        f"percentile {often}."
    )
    figures: dict[str, Any] = {}
    for name in FIGURES:
        figures |= _figure(finding, name)
    data = {**_about(anomaly), **figures, "hours": finding.hours, "action": finding.action}
    return _notice(kind, anomaly, message, data)


def creator_throttled(anomaly: Anomaly, requests_per_minute: int, until_ms: int) -> Notice:
    until = rfc3339(until_ms)
    requests = "1 request" if requests_per_minute == 1 else f"{requests_per_minute} requests"
    message = (
        f"Creator '{anomaly.finding.creator}' is slowed down to {requests} a minute until {until}, because its calls "
        f"{_of_feature(anomaly.finding)} in the hour {anomaly.finding.hour} (UTC) were out of the usual."
    )
    data = {**_about(anomaly), "requests_per_minute": requests_per_minute, "until_at": until}
    return _notice("creator.throttled", anomaly, message, data)


def key_paused(anomaly: Anomaly, key_ids: Sequence[str]) -> Notice:
    """All keys that were paused for one anomaly, in one notice."""
    keys, are, them = ("key", "is", "it") if len(key_ids) == 1 else ("keys", "are", "them")
    message = (
        f"The virtual {keys} {', '.join(key_ids)} of creator '{anomaly.finding.creator}' {are} paused until an admin "
        f"resumes {them}, because the calls {_of_feature(anomaly.finding)} in the hour {anomaly.finding.hour} (UTC) were "
        "out of the usual."
    )
    return _notice("key.paused", anomaly, message, {**_about(anomaly), "key_ids": list(key_ids)})


def _notice(kind: Kind, anomaly: Anomaly, message: str, data: dict[str, Any]) -> Notice:
    return Notice(kind, f"{kind}/{anomaly.id}", message, data, anomaly.finding.creator)


def _about(anomaly: Anomaly) -> dict[str, Any]:
    finding = anomaly.finding
    return {"anomaly_id": anomaly.id, "feature": finding.feature, "metric": finding.metric, "period": finding.hour}


def _figure(finding: Finding, name: str) -> dict[str, Any]:
    amount = getattr(finding, name)
    if finding.metric == "calls":
        return {f"{name}_calls": amount}
    return {f"{name}_nano_usd": amount, f"{name}_usd": usd(amount)}


def _shown(finding: Finding, name: str) -> str:
    amount = getattr(finding, name)
    return str(amount) if finding.metric == "calls" else f"{usd(amount)} USD"


def _of_feature(finding: Finding) -> str:
    if finding.feature == ALL_FEATURES:
        return "with all features together"
    return f"with feature '{finding.feature}'" if finding.feature else "without a feature"
