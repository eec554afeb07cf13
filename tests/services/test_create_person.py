"""`manage.py create_person`: who approves must be somebody."""

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from controlplane.accounts.models import User
from controlplane.audit.models import Event

pytestmark = pytest.mark.django_db


def create(*arguments: str) -> str:
    out = StringIO()
    call_command("create_person", *arguments, stdout=out)
    return out.getvalue().strip()


def test_the_password_that_is_printed_is_theirs_and_the_log_knows_them() -> None:
    password = create("ana")

    ana = User.objects.get(username="ana")
    assert ana.check_password(password)
    assert (ana.is_staff, ana.is_superuser) == (False, False)
    assert Event.objects.filter(action="person.created", object_id="ana").exists()
    assert password not in str(Event.objects.values_list("data"))


def test_staff_may_do_everything_in_the_console() -> None:
    create("bo", "--staff")

    assert User.objects.get(username="bo").is_staff


@pytest.mark.parametrize("name", ["ana", "no spaces", ""])
def test_a_name_that_is_taken_or_none_is_refused_with_why(name: str) -> None:
    create("ana")

    with pytest.raises(CommandError, match=r"exists|Enter a valid|cannot be blank"):
        create(name)

    assert User.objects.count() == 1
