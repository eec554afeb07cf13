"""The peer's ASGI application: Django's own, with nothing of ours before it."""

from django.core.asgi import get_asgi_application

application = get_asgi_application()
