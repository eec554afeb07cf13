"""The real Triton's fixtures, for the tests in this folder."""

from deploy.triton.testing import demo_versions, make_triton, triton_session

__all__ = ["demo_versions", "make_triton", "triton_session"]
