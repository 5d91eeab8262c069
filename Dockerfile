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
    && useradd --system --create-home spar
COPY --from=build /out/spar /usr/local/bin/spar
USER spar
EXPOSE 8080
# Within a container the loopback address is not reachable from outside.
ENV SPAR_HOST=0.0.0.0
ENTRYPOINT ["spar"]
