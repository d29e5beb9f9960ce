# fastunlearn with its CUDA kernels.   docker build -t fastunlearn .   docker run --gpus all fastunlearn info
#
# CUDA: that of the base image and of the PyTorch wheel must have the same major version (torch 2.13.0: CUDA 13.0).
ARG CUDA=13.0.1
FROM nvidia/cuda:${CUDA}-devel-ubuntu24.04 AS build
ARG TORCH=torch==2.13.0
ARG ARCHS="80 90a"
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-dev python3-venv g++ \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
RUN pip install --no-cache-dir "${TORCH}" \
    && pip install --no-cache-dir 'setuptools>=77' wheel 'pybind11>=2.13' numpy
COPY . /src
# An extension that cannot be built is an error here, not a slower package.
RUN cd /src && FASTUNLEARN_CPU=1 FASTUNLEARN_CUDA=1 FASTUNLEARN_CUDA_ARCHS="${ARCHS}" \
    pip install --no-cache-dir --no-build-isolation '.[gpu]'

FROM nvidia/cuda:${CUDA}-base-ubuntu24.04
# gcc: Triton compiles its launchers with it. libgomp: OpenMP of the CPU kernels.
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-dev gcc libc6-dev libgomp1 \
    && rm -rf /var/lib/apt/lists/* && useradd --create-home user
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
USER user
WORKDIR /home/user
ENTRYPOINT ["fastunlearn"]
CMD ["info"]
