"""`?limit=&offset=` with a `next` link, bounded."""

from rest_framework.pagination import LimitOffsetPagination


class Paging(LimitOffsetPagination):
    default_limit = 50
    max_limit = 500
