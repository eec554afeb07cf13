"""Pages of a list, bounded, with `next` links.

`?limit=&offset=` where people leaf through; a cursor where rows only grow (events, deliveries,
measurements): it stays at its place while new rows come in above it."""

from typing import Any

from rest_framework.exceptions import NotFound
from rest_framework.pagination import CursorPagination, LimitOffsetPagination

from controlplane.domain.errors import FieldError, InvalidInput

USUAL = 50
MOST = 500


class Paging(LimitOffsetPagination):
    default_limit = USUAL
    max_limit = MOST


class NewestFirst(CursorPagination):
    """By rising id; a subclass names another column that rises. What a cursor holds is our own
    business: callers pass on what `next` says."""

    page_size = USUAL
    max_page_size = MOST
    page_size_query_param = "limit"
    ordering: str | tuple[str, ...] = "-id"

    def decode_cursor(self, request: Any) -> Any:
        try:
            return super().decode_cursor(request)
        except NotFound as error:
            raise _unknown() from error

    def paginate_queryset(self, queryset: Any, request: Any, view: Any = None) -> Any:
        try:
            return super().paginate_queryset(queryset, request, view)
        except (ValueError, TypeError) as error:
            # The cursor is well formed, but its place is none in this list.
            raise _unknown() from error


def _unknown() -> InvalidInput:
    fault = FieldError(field="cursor", message="is none of this list; follow `next` as it is")
    return InvalidInput("invalid-request", "The request cannot be used.", errors=[fault])
