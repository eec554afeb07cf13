"""Logging in. Django's own view checks the password and keeps `next` on this host."""

from django.contrib.auth.views import LoginView


class Login(LoginView):
    """Somebody who is logged in already goes straight on."""

    redirect_authenticated_user = True
