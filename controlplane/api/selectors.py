"""`?selector=region=eu,tier!=lab` on lists: conditions on labels as conditions of the database.

A view names in `selector_labels` the JSON column of its labels, and in `selector_columns` which
keys mean a column instead. `domain/label_selector.py` has the grammar."""

from typing import Any

from django.db.models import Q, QuerySet, TextField
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast
from rest_framework.filters import BaseFilterBackend
from rest_framework.request import Request

from controlplane.domain.label_selector import Relation, Requirement, parse_label_selector

PARAMETER = "selector"
HELP = (
    "labels that must hold: `region=eu,tier!=lab,ring in (0,1),!old`; "
    "422 `selector-invalid` says at which character it cannot be read"
)


class SelectorFilter(BaseFilterBackend):
    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: Any) -> Any:
        text = request.query_params.get(PARAMETER)
        labels = getattr(view, "selector_labels", None)
        if text is None or labels is None:
            return queryset
        columns = getattr(view, "selector_columns", {})
        for index, requirement in enumerate(parse_label_selector(text)):
            column = columns.get(requirement.key)
            if column is None:
                column = f"label_{index}"
                # The key is a parameter of the query, never a part of a lookup's name.
                value = Cast(KeyTextTransform(requirement.key, labels), TextField())
                queryset = queryset.alias(**{column: value})
            queryset = queryset.filter(_condition(requirement, column))
        return queryset

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        if getattr(view, "selector_labels", None) is None:
            return []
        schema = {"type": "string", "maxLength": 1000}
        parameter = {"name": PARAMETER, "in": "query", "required": False, "description": HELP}
        return [{**parameter, "schema": schema}]


def _condition(requirement: Requirement, column: str) -> Q:
    missing = Q(**{f"{column}__isnull": True})
    among = Q(**{f"{column}__in": sorted(requirement.values)})
    match requirement.relation:
        case Relation.EXISTS:
            return ~missing
        case Relation.MISSING:
            return missing
        case Relation.IN:
            return among & ~missing
        case Relation.NOT_IN:
            return missing | ~among
