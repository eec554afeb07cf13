"""Queries that are asked over and over, put into SQL once: to make the text of a query takes Django
several times what the database takes to answer it.

It decides nothing and knows no table. What differs from one time to the next stands in a `Slot`,
and what changes the text is an argument of the query; nothing else may be read while it is written:
no time, no setting and no row."""

from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from typing import Any, NamedTuple

from django.db import DEFAULT_DB_ALIAS, connection
from django.db.models import Field, Model, QuerySet, Value
from django.db.transaction import TransactionManagementError

_SHAPES = 64  # kept of each query


class Slot(Value):
    """A value that is given by this name whenever the query is asked, and is of this kind."""

    def __init__(self, name: str, output_field: "Field[Any, Any]") -> None:
        super().__init__(name, output_field=output_field)

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        return "%s", [self]

    def bound(self, values: Mapping[str, object]) -> Any:
        return self.output_field.get_db_prep_value(values[self.value], connection)


class _Sql(NamedTuple):
    """`converters` by column, as Django's compilers have them: how what the database gives becomes
    what Python knows."""

    text: str
    parameters: tuple[Any, ...]
    locks: bool
    converters: Mapping[int, tuple[list[Callable[..., Any]], Any]]


def prepared(
    write: Callable[..., "QuerySet[Any, Any]"],
) -> Callable[..., list[tuple[Any, ...]]]:
    """Makes of a function that writes a query of `values_list` one that asks it: the arguments are
    those of the function (hashable), what goes into the slots is given by name."""

    @lru_cache(maxsize=_SHAPES)
    def sql(vendor: str, *shape: object) -> _Sql:
        query = write(*shape).query
        compiler = query.get_compiler(DEFAULT_DB_ALIAS)
        text, parameters = compiler.as_sql()
        converters = compiler.get_converters([column for column, *_ in compiler.select])
        locks = query.select_for_update and connection.features.has_select_for_update
        return _Sql(text, tuple(parameters), locks, converters)

    @wraps(write)
    def ask(*shape: object, **values: object) -> list[tuple[Any, ...]]:
        text, parameters, locks, converters = sql(connection.vendor, *shape)
        if locks and not connection.in_atomic_block:  # Django looks only when it writes the query
            raise TransactionManagementError("rows can be locked only inside a transaction")
        given = [each.bound(values) if isinstance(each, Slot) else each for each in parameters]
        with connection.cursor() as cursor:
            cursor.execute(text, given)
            rows = cursor.fetchall()
        return [_converted(row, converters) for row in rows] if converters else rows

    return ask


def columns(model: type[Model], *, without: str = "") -> tuple[str, ...]:
    """The columns of a table, for `values_list` and for `from_db`, which makes an instance of
    them."""
    names = [field.attname for field in model._meta.concrete_fields]
    return tuple(name for name in names if name != without)


def _converted(row: tuple[Any, ...], converters: Mapping[int, Any]) -> tuple[Any, ...]:
    values = list(row)
    for column, (steps, expression) in converters.items():
        for step in steps:
            values[column] = step(values[column], expression, connection)
    return tuple(values)
