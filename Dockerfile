# One image for controller, node agent and kubelet plugin: gpu-reconciler COMMAND. hack/image-build builds it, with
# docker, podman or buildah. The target `simulator` has simulated GPUs and a simulated cluster too.

# Any Debian with Python 3.11 or newer and its venv module; what it has of pip stays behind.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

# --- Everything that needs pip. No compiler: whatever has no wheel for this architecture is an error. ---
FROM ${BASE_IMAGE} AS build
ARG PIP_INDEX_URL=
ARG PIP_CERT=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
COPY hack/image/build.lock requirements.lock /locks/
RUN python3 -m venv /build \
    && /build/bin/python -m pip install --quiet --require-hashes --only-binary :all: -r /locks/build.lock \
    && python3 -m venv --without-pip /opt/gpu-reconciler \
    && /build/bin/python -m pip --python /opt/gpu-reconciler/bin/python install --quiet --no-compile \
        --require-hashes --only-binary :all: -r /locks/requirements.lock
COPY pyproject.toml LICENSE /source/
COPY state /source/state
COPY plugin /source/plugin
COPY reconciler /source/reconciler
RUN /build/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels /source \
    && /build/bin/python -m pip --python /opt/gpu-reconciler/bin/python install --quiet --no-compile --no-deps /wheels/*.whl

# The simulator's packages, in a copy of the same environment.
FROM build AS build-simulator
COPY hack/image/simulator.lock /locks/
RUN /build/bin/python -m pip --python /opt/gpu-reconciler/bin/python install --quiet --no-compile \
        --require-hashes --only-binary :all: -r /locks/simulator.lock
COPY hack/sim /source/sim
RUN /build/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels/sim /source/sim \
    && /build/bin/python -m pip --python /opt/gpu-reconciler/bin/python install --quiet --no-compile --no-deps /wheels/sim/*.whl
COPY hack/image/trim /source/
RUN sh /source/trim /opt/gpu-reconciler

FROM build AS build-product
COPY hack/image/trim /source/
RUN sh /source/trim /opt/gpu-reconciler

# --- What both images are made of. ---
FROM ${BASE_IMAGE} AS runtime
# Of Python's installers nothing is left, neither where Debian has them nor where Python's own images do.
RUN rm -rf /usr/share/python-wheels /usr/lib/python3*/ensurepip \
    /usr/local/lib/python3*/ensurepip /usr/local/lib/python3*/site-packages/* /usr/local/bin/pip*
COPY LICENSE /licenses/gpu-reconciler
ENV PATH=/opt/gpu-reconciler/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
WORKDIR /
ARG BASE_IMAGE
ARG VERSION=unreleased
ARG REVISION=unknown
LABEL org.opencontainers.image.base.name=${BASE_IMAGE} \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.revision=${REVISION} \
      org.opencontainers.image.version=${VERSION}

# --- To try it without a GPU, as root and privileged: shows the tour of hack/demo, or runs any of the programs. ---
FROM runtime AS simulator
LABEL org.opencontainers.image.title="Intel GPU resource driver with simulated GPUs" \
      org.opencontainers.image.description="The driver, a simulated kernel with Intel GPUs and a simulated cluster"
RUN apt-get -qq update \
    && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends fuse3 >/dev/null \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build-simulator /opt/gpu-reconciler /opt/gpu-reconciler
COPY hack/tour.py hack/cluster_tour.py /demo/hack/
COPY hack/lab /demo/hack/lab
COPY deploy /demo/deploy
ENV PYTHONPATH=/demo
USER 0:0
CMD ["python3", "/demo/hack/tour.py"]

# --- The product. ---
FROM runtime AS gpu-reconciler
LABEL org.opencontainers.image.title="Intel GPU resource driver" \
      org.opencontainers.image.description="Controller, node agent and kubelet plugin that give Intel GPUs to pods"
COPY --from=build-product /opt/gpu-reconciler /opt/gpu-reconciler
# Nobody's: the controller needs no more. The node's pods say which containers need root.
USER 65532:65532
ENTRYPOINT ["gpu-reconciler"]
CMD ["--help"]
