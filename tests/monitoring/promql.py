"""PromQL, read by a parser of it: which series and labels an expression asks for, and which labels its result has.

The parser (`promql-parser` 0.12: the grammar and types of Prometheus 2.45) refuses what Prometheus refuses to parse.
Prometheus accepts names that nothing has, and answers with nothing, for ever: those are found here. Labels are followed
from each selector through functions, aggregations and operators up to the result, whose labels a legend or an alert tells.
"""

import re
from collections.abc import Mapping, Set
from datetime import timedelta

import promql_parser as parser

from tests.monitoring.scraped import SERIES

__all__ = ["Query", "filled_in"]

Labels = frozenset[str]

_NOTHING: Labels = frozenset()
_MANY_TO_ONE = parser.VectorMatchCardinality.ManyToOne
_ONE_TO_MANY = parser.VectorMatchCardinality.OneToMany
_SET_OPERATORS = {"and", "or", "unless"}
_WITHOUT_LABELS = {"scalar", "time", "pi", "vector", "absent", "absent_over_time"}
"""What `absent` takes from its matchers is not counted on."""
_KEEPS_SERIES = {"topk", "bottomk", "limitk", "limit_ratio"}
_NOT_FOLLOWED = {"label_replace", "label_join", "count_values", "info"}
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::\w+)?\}|(\w+))")
_BUILT_IN = {"__rate_interval": "5m", "__interval": "1m", "__range": "6h"}


def filled_in(text: str, variables: Set[str]) -> str:
    """With Grafana's variables replaced, the dashboard's own by what means all. Raises `KeyError` for a stranger."""

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        return ".*" if name in variables else _BUILT_IN[name]

    return _VARIABLE.sub(value, text)


class Query:
    """One expression. Raises `ValueError` where it is not PromQL."""

    def __init__(self, text: str, series: Mapping[str, Labels] = SERIES) -> None:
        self._series = series
        self.faults: list[str] = []
        """Names that no scrape has, labels that are not on what is asked, and operands that never match."""
        self.metrics: set[str] = set()
        self.matchers: list[tuple[str, str]] = []
        """Label and value, or pattern of values, of every selector."""
        self.labels = self._labels_of(parser.parse(text)) - {"__name__"}
        """Those of the result."""

    def _labels_of(self, expr: parser.Expr) -> Labels:
        match expr:
            case parser.VectorSelector():
                return self._selected(expr)
            case parser.MatrixSelector():
                self._expect(expr.range > timedelta(), "a range of nothing")
                return self._selected(expr.vector_selector)
            case parser.SubqueryExpr() | parser.ParenExpr() | parser.UnaryExpr():
                return self._labels_of(expr.expr)
            case parser.Call():
                return self._called(expr)
            case parser.AggregateExpr():
                return self._aggregated(expr)
            case parser.BinaryExpr():
                return self._combined(expr)
            case _:
                return _NOTHING

    def _selected(self, selector: parser.VectorSelector) -> Labels:
        groups = [selector.matchers.matchers, *selector.matchers.or_matchers]
        matchers = [matcher for group in groups for matcher in group]
        named = [matcher.value for matcher in matchers if matcher.name == "__name__"]
        name = selector.name or (named[0] if len(named) == 1 else "")
        self._expect(name in self._series, f"no series is called {name or selector}")
        labels = self._series.get(name, _NOTHING)
        self.metrics.add(name)
        for matcher in matchers:
            if matcher.name != "__name__":
                self.matchers.append((matcher.name, matcher.value))
                self._expect(matcher.name in labels, f"{name} has no label {matcher.name}")
        return labels

    def _called(self, call: parser.Call) -> Labels:
        name = call.func.name
        if name in _NOT_FOLLOWED:
            raise NotImplementedError(f"labels made by {name} are not followed")
        of_arguments = [self._labels_of(argument) for argument in call.args]
        if name in _WITHOUT_LABELS:
            return _NOTHING
        labels = frozenset[str]().union(*of_arguments)
        if name == "histogram_quantile":
            self._expect("le" in labels, "histogram_quantile of a series without le")
            return labels - {"le"}
        return labels

    def _aggregated(self, aggregate: parser.AggregateExpr) -> Labels:
        labels = self._labels_of(aggregate.expr)
        told = aggregate.modifier.labels if aggregate.modifier else []
        self._expect(set(told) <= labels, f"{sorted(set(told) - labels)} is not on what is put together")
        if str(aggregate.op) in _NOT_FOLLOWED:
            raise NotImplementedError(f"labels made by {aggregate.op} are not followed")
        if str(aggregate.op) in _KEEPS_SERIES:
            return labels
        if aggregate.modifier is None:
            return _NOTHING
        return frozenset(told) if aggregate.modifier.type == parser.AggModifierType.By else labels - set(told)

    def _combined(self, binary: parser.BinaryExpr) -> Labels:
        left, right = self._labels_of(binary.lhs), self._labels_of(binary.rhs)
        scalars = [_is_scalar(binary.lhs), _is_scalar(binary.rhs)]
        if any(scalars):
            return left | right
        if str(binary.op) == "or":
            return left & right
        modifier = binary.modifier
        if modifier is None or modifier.matching is None:
            self._expect(left == right, f"{sorted(left)} never equals {sorted(right)}")
            return left
        told = frozenset(modifier.matching.labels)
        is_on = modifier.matching.type == parser.LabelModifierType.Include
        if is_on:
            self._expect(told <= left & right, f"{sorted(told - (left & right))} is not on both sides")
        else:
            self._expect(left - told == right - told, f"{sorted(left - told)} never equals {sorted(right - told)}")
        if str(binary.op) in _SET_OPERATORS:
            return left
        if modifier.card in (_MANY_TO_ONE, _ONE_TO_MANY):
            return self._joined(modifier, *((left, right) if modifier.card == _MANY_TO_ONE else (right, left)))
        return told if is_on else left - told

    def _joined(self, modifier: parser.BinModifier, many: Labels, one: Labels) -> Labels:
        """The many's, and what is taken along from the one's."""
        taken = frozenset(modifier.group_labels or ())
        self._expect(taken <= one, f"{sorted(taken - one)} is not on the side it is taken from")
        return many | taken

    def _expect(self, holds: bool, fault: str) -> None:
        if not holds:
            self.faults.append(fault)


def _is_scalar(expr: parser.Expr) -> bool:
    match expr:
        case parser.NumberLiteral():
            return True
        case parser.ParenExpr() | parser.UnaryExpr():
            return _is_scalar(expr.expr)
        case parser.Call():
            return bool(expr.func.return_type == parser.ValueType.Scalar)
        case parser.BinaryExpr():
            return _is_scalar(expr.lhs) and _is_scalar(expr.rhs)
        case _:
            return False
