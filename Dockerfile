# For the CPU:       docker build -t act-engine .
# For NVIDIA GPUs:   docker build -t act-engine:cuda --build-arg CUDA=13.0 \
#                      --build-arg BUILD_IMAGE=nvidia/cuda:13.0.1-devel-ubuntu24.04 --build-arg EXTRAS=report,evaluation,imagenet,distributed .
# Run:               docker run --rm [--gpus all] --shm-size 8g -v "$PWD/runs:/runs" act-engine \
#                      train --recipe digits --output /runs/digits
# CUDA 13 or 12: of the build image and of torch alike; torch brings the libraries that run it.
ARG BUILD_IMAGE=ubuntu:24.04
ARG CUDA=
ARG EXTRAS=report,evaluation

# The kernels are compiled here; their wheel serves every Python, and the compiler stays behind.
FROM ${BUILD_IMAGE} AS wheels
ARG CUDA
RUN apt-get update && apt-get install -y --no-install-recommends g++ python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY constraints.txt ./
RUN python3 -m venv /build && \
    if [ -n "${CUDA}" ]; then index="cu$(echo "${CUDA}" | tr -d .)"; else index=cpu; fi && \
    /build/bin/pip install --no-cache-dir -c constraints.txt setuptools wheel numpy torch \
      --extra-index-url "https://download.pytorch.org/whl/${index}"
COPY . .
RUN ACT_BUILD="$(if [ -n "${CUDA}" ]; then echo cuda; else echo cpu; fi)" \
    /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels ./kernels .

FROM ubuntu:24.04
ARG CUDA
ARG EXTRAS
# Triton compiles a launcher for its kernels when it runs: that takes a C compiler and Python's headers.
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv python3-dev gcc libc6-dev libgomp1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=wheels /wheels /wheels
COPY constraints.txt /wheels/
RUN python3 -m venv /opt/act-engine && \
    if [ -n "${CUDA}" ]; then index="cu$(echo "${CUDA}" | tr -d .)"; else index=cpu; fi && \
    engine="$(ls /wheels/act_engine-*.whl)" && \
    /opt/act-engine/bin/pip install --no-cache-dir -c /wheels/constraints.txt --find-links /wheels \
      --extra-index-url "https://download.pytorch.org/whl/${index}" "act-engine[${EXTRAS}] @ file://${engine}"
ENV PATH=/opt/act-engine/bin:$PATH
RUN useradd --create-home engine && mkdir /runs && chown engine /runs
USER engine
WORKDIR /home/engine
ENTRYPOINT ["act-engine"]
CMD ["doctor"]
