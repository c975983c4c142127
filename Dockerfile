# syntax=docker/dockerfile:1
# Four images, by `docker build --target`: gateway (without torch), worker (torch for CPUs), worker-cuda, and tools,
# which makes bundles. docs/deploy.md says how they run.
#
# They run as user 10001 and with a read-only root. What is written:
#   /tmp                tmpfs
#   /var/lib/padrec     gateway: histories, where they are kept in sqlite; a volume
#   /var/cache/padrec   worker-cuda: compiled kernels; a volume, or a tmpfs that may execute
#   /bundles            tools: what it makes; the others read it
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm


# Of the processes. An init, since the kernel keeps SIGTERM from a process 1 that has no handler for it yet.
# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE} AS base
# The distribution's own version, which the image's tag decides.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 padrec \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin padrec \
    && install -d -o 10001 -g 10001 /bundles /var/lib/padrec /var/cache/padrec
ENV HOME=/tmp \
    PATH=/opt/padrec/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PADREC_LOG__FORMAT=json
WORKDIR /var/lib/padrec
USER 10001:10001
ENTRYPOINT ["tini", "--", "padrec"]


# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE} AS wheel
ARG PIP_INDEX_URL=https://pypi.org/simple
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY service service
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .


# What is required, of a package without code: these layers last until pyproject.toml or constraints.txt changes.
# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE} AS requirements
ARG PIP_INDEX_URL=https://pypi.org/simple
ENV PATH=/opt/padrec/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/padrec \
    && mkdir service \
    && touch service/__init__.py README.md LICENSE \
    && pip install -c constraints.txt '.[tracing]'

# torch alone from its own index, the rest from the usual one.
FROM requirements AS requirements-worker
ARG PIP_INDEX_URL=https://pypi.org/simple
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --index-url "${TORCH_INDEX}" "$(grep '^torch==' constraints.txt)" \
    && pip install -c constraints.txt '.[model,tracing]'

FROM requirements AS requirements-worker-cuda
ARG PIP_INDEX_URL=https://pypi.org/simple
ARG TORCH_INDEX=https://download.pytorch.org/whl/cu130
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --index-url "${TORCH_INDEX}" "$(grep '^torch==' constraints.txt)" \
    && pip install -c constraints.txt '.[model,tracing,gpu]'

FROM requirements-worker AS requirements-tools
ARG PIP_INDEX_URL=https://pypi.org/simple
RUN --mount=type=cache,target=/root/.cache/pip pip install -c constraints.txt '.[model,build,tracing]'


# Each with the code last.
FROM requirements AS installed-gateway
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist pip install --no-cache-dir --no-deps --force-reinstall /dist/*.whl

FROM requirements-worker AS installed-worker
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist pip install --no-cache-dir --no-deps --force-reinstall /dist/*.whl

FROM requirements-worker-cuda AS installed-worker-cuda
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist pip install --no-cache-dir --no-deps --force-reinstall /dist/*.whl

FROM requirements-tools AS installed-tools
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist pip install --no-cache-dir --no-deps --force-reinstall /dist/*.whl


FROM base AS tools
ARG REVISION=unknown
LABEL org.opencontainers.image.title="padrec tools" \
      org.opencontainers.image.description="Imports data, trains models and builds bundles" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=installed-tools /opt/padrec /opt/padrec
WORKDIR /bundles
VOLUME ["/bundles"]
CMD ["--help"]


FROM base AS worker-cuda
ARG REVISION=unknown
LABEL org.opencontainers.image.title="padrec worker for NVIDIA GPUs" \
      org.opencontainers.image.description="Writes lists: target, draft and engine behind the internal gRPC" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
# Triton compiles what starts its kernels. The CUDA libraries come with torch, the driver from the host.
USER 0
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
USER 10001:10001
COPY --from=installed-worker-cuda /opt/padrec /opt/padrec
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TRITON_CACHE_DIR=/var/cache/padrec/triton \
    PADREC_WORKER__DEVICE=cuda \
    PADREC_WORKER__LISTEN=0.0.0.0:50051 \
    PADREC_WORKER__METRICS_HOST=0.0.0.0 \
    PADREC_WORKER__METRICS_PORT=8001
EXPOSE 50051 8001
VOLUME ["/var/cache/padrec"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --start-interval=2s --retries=3 \
    CMD ["padrec", "health", "--grpc", "127.0.0.1:50051"]
CMD ["worker", "/bundles/current"]


FROM base AS worker
ARG REVISION=unknown
LABEL org.opencontainers.image.title="padrec worker" \
      org.opencontainers.image.description="Writes lists: target, draft and engine behind the internal gRPC" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=installed-worker /opt/padrec /opt/padrec
ENV PADREC_WORKER__DEVICE=cpu \
    PADREC_WORKER__LISTEN=0.0.0.0:50051 \
    PADREC_WORKER__METRICS_HOST=0.0.0.0 \
    PADREC_WORKER__METRICS_PORT=8001
EXPOSE 50051 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --start-interval=2s --retries=3 \
    CMD ["padrec", "health", "--grpc", "127.0.0.1:50051"]
CMD ["worker", "/bundles/current"]


# The last one is what is built without --target.
FROM base AS gateway
ARG REVISION=unknown
LABEL org.opencontainers.image.title="padrec gateway" \
      org.opencontainers.image.description="Recommendations over REST and gRPC, in front of padrec workers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=installed-gateway /opt/padrec /opt/padrec
ENV PADREC_GATEWAY__HOST=0.0.0.0 \
    PADREC_GATEWAY__PORT=8000 \
    PADREC_GATEWAY__GRPC_PORT=9000 \
    PADREC_HISTORY__URL=sqlite:////var/lib/padrec/history.sqlite3
EXPOSE 8000 9000
VOLUME ["/var/lib/padrec"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["padrec", "health", "--url", "http://127.0.0.1:8000"]
CMD ["gateway", "/bundles/current"]
