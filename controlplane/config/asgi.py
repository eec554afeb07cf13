"""The one ASGI application: the agents' plane and the people's plane in one process."""

import os
from concurrent.futures import ThreadPoolExecutor

import django
from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest
from django.http.response import HttpResponseBase

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.config.settings")
django.setup(set_prefix=False)

# These read models, which exist from here on.
from controlplane.api.agent_v1.hot_path import answer_unchanged_polls  # noqa: E402
from controlplane.api.agent_v1.lean import answer_agents_lean  # noqa: E402
from controlplane.api.body_limit import limit_bodies  # noqa: E402
from controlplane.api.long_poll import answer_waits  # noqa: E402
from controlplane.api.upload_door import admit_uploads  # noqa: E402
from controlplane.catalog.store import CHUNK_BYTES  # noqa: E402
from controlplane.catalog.stores import say_if_unusable  # noqa: E402

say_if_unusable()


class OneThreadHandler(ASGIHandler):
    """Runs middleware and view of a request in one thread.

    Django's own handler changes threads at every synchronous middleware; ours all are, and so are
    the views. One change instead of some twenty saves a third of the time of a request. Streamed
    answers still leave through the event loop.
    """

    # Of a streamed answer, in one write: Django's 64 KiB would cut each piece of a file anew.
    chunk_size = CHUNK_BYTES

    def load_middleware(self, is_async: bool = False) -> None:
        super().load_middleware(is_async=False)

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        return await sync_to_async(self.get_response, thread_sensitive=True)(request)


# Each keeps a database connection of its own: opening one is half of what a poll costs.
POLL_THREADS = ThreadPoolExecutor(max_workers=4, thread_name_prefix="poll")
# Apart from them: people who wait for news must not slow the agents' polls.
WAIT_THREADS = ThreadPoolExecutor(max_workers=2, thread_name_prefix="wait")
_people = limit_bodies(admit_uploads(OneThreadHandler(), WAIT_THREADS))
_all = answer_agents_lean(answer_waits(_people, WAIT_THREADS))
application = answer_unchanged_polls(_all, POLL_THREADS)
