"""Leaves out of answers to agents what only a browser reads: a site on a metered line pays for each
byte, and these are half of a small answer. Knows neither views nor middleware."""

from controlplane.api.body_limit import Application, Message, Receive, Scope, Send

PREFIX = "/agent/v1/"
FOR_BROWSERS = frozenset(
    {
        b"content-security-policy",
        b"cross-origin-opener-policy",
        b"referrer-policy",
        b"x-frame-options",
    }
)


def answer_agents_lean(application: Application) -> Application:
    """Wraps an ASGI application."""

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_lean(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [
                    pair for pair in message["headers"] if pair[0].lower() not in FOR_BROWSERS
                ]
                message = {**message, "headers": headers}
            await send(message)

        is_agents = scope["type"] == "http" and scope["path"].startswith(PREFIX)
        await application(scope, receive, send_lean if is_agents else send)

    return answered
