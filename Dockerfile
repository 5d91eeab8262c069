# CPU:
#   docker build -t spar .
# CUDA (FEATURES=mistral,cuda, a CUDA image to build in, one to run in, the compute capability of the card):
#   docker build -t spar:cuda --build-arg FEATURES=mistral,cuda --build-arg CUDA_COMPUTE_CAP=90 \
#     --build-arg BUILD_IMAGE=nvidia/cuda:13.0.1-devel-ubuntu24.04 --build-arg RUN_IMAGE=nvidia/cuda:13.0.1-runtime-ubuntu24.04 .
# Either way:
#   docker run --rm -p 8080:8080 spar
#   docker run --rm -p 8080:8080 -v /models/my-model:/model:ro spar --model /model

ARG BUILD_IMAGE=debian:trixie-slim
ARG RUN_IMAGE=debian:trixie-slim

FROM ${BUILD_IMAGE} AS build
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates g++ pkg-config rustup \
    && rm -rf /var/lib/apt/lists/*
ARG RUST_VERSION=stable
RUN rustup default "${RUST_VERSION}"
WORKDIR /src
COPY . .
# Without mistral.rs (FEATURES="") the image builds in minutes and serves Llama, Mistral, Qwen2 and Qwen3.
ARG FEATURES="mistral"
ARG CUDA_COMPUTE_CAP=90
ENV CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP}
# The name of the image that builds: a cache of built dependencies for each.
ARG BUILD_IMAGE
# The caches belong to the build host, so the binary is copied out of the target folder within the same step.
ENV CARGO_HOME=/cargo
RUN --mount=type=cache,target=/cargo/registry --mount=type=cache,target=/target,id=spar-target-${BUILD_IMAGE} \
    CARGO_TARGET_DIR=/target cargo build --release --locked -p spar --bin spar --features "${FEATURES}" \
    && install -D /target/release/spar /out/spar

FROM ${RUN_IMAGE}
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --create-home spar \
    && install -d -o spar -g spar /home/spar/.cache
COPY --from=build /out/spar /usr/local/bin/spar
# By number, so that Kubernetes sees that it is not root.
USER 10001:10001
EXPOSE 8080
# Within a container the loopback address is not reachable from outside.
ENV SPAR_HOST=0.0.0.0
ENV SPAR_HEALTH_PORT=9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=5m --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9090; printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3 | grep -q ' 200 '"]
ENTRYPOINT ["spar"]
