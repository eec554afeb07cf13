# The agent of one site. It holds no Triton: that runs beside it, from its own image.
# Build from the root of the checkout: docker build -f deploy/docker/agent.Dockerfile .

FROM python:3.12.12-slim-bookworm AS packages
COPY deploy/docker/agent-requirements.lock /build/requirements.lock
RUN python -m venv /opt/waypost-agent \
 && /opt/waypost-agent/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps \
      --require-hashes --only-binary=:all: -r /build/requirements.lock

FROM python:3.12.12-slim-bookworm
# /srv/waypost holds the agent's state and Triton's repository: a version arrives by one rename,
# so both lie on one file system. /run/waypost is where a boot's secret for Triton is put.
RUN groupadd --system --gid 10002 waypost \
 && useradd --system --uid 10002 --gid waypost --home-dir /srv/waypost \
      --shell /usr/sbin/nologin waypost \
 && install -d -o waypost -g waypost -m 0755 /srv/waypost /srv/waypost/models /run/waypost \
 && install -d -o waypost -g waypost -m 0700 /srv/waypost/state
COPY --from=packages /opt/waypost-agent /opt/waypost-agent
WORKDIR /app
COPY agents/src src
COPY deploy/docker/agent.toml /etc/waypost/agent.toml
COPY deploy/docker/site.sh /usr/local/bin/waypost-site
RUN /opt/waypost-agent/bin/python -m compileall -q src && chmod 0755 /usr/local/bin/waypost-site
ENV PATH=/opt/waypost-agent/bin:$PATH \
    PYTHONPATH=/app/src \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER waypost
ENTRYPOINT ["python", "-m", "waypost_agent"]
CMD ["run"]
