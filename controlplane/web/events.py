"""Events as lines of a list: the act in words, and a link to what it was done to."""

from collections.abc import Iterable
from dataclasses import dataclass

from django.urls import NoReverseMatch, reverse

from controlplane.audit.models import Event


@dataclass(frozen=True, kw_only=True)
class EventLine:
    """`href` is empty where there is no page to show."""

    event: Event
    words: str
    target: str
    href: str


def event_lines(events: Iterable[Event]) -> list[EventLine]:
    return [
        EventLine(
            event=event,
            words=_words(event),
            target=f"{event.object_type} {event.object_id}",
            href=_href(event),
        )
        for event in events
    ]


def _words(event: Event) -> str:
    """`rollout 4 started`, not `rollout 4 rollout started`."""
    return event.action.removeprefix(f"{event.object_type}.").replace(".", " ").replace("_", " ")


def _href(event: Event) -> str:
    try:
        match event.object_type:
            case "rollout":
                return reverse("rollout", args=[int(event.object_id)])
            case "site":
                return reverse("site", args=[event.object_id])
            case "strategy":
                return reverse("strategy", args=[event.object_id])
            case "freeze" | "budget":
                return reverse("freezes")
            case "model":
                return reverse("model", args=[event.object_id])
            case "channel":
                return reverse("model", args=[event.object_id.partition("@")[0]])
            case "publisher":
                return reverse("publishers")
            case "signing_key":
                return reverse("signing-keys")
            case "version":
                model, _, number = event.object_id.rpartition("/")
                return reverse("version", args=[model, int(number)])
    except (NoReverseMatch, ValueError):
        return ""  # an event outlives its object, and may name one in an older form
    return ""
