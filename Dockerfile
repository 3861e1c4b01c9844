# mmseg-tome in a container:
#
#   docker build -t mmseg_tome .
#   docker run --rm --user "$(id -u)" -v "$PWD":/work mmseg_tome \
#       infer segformerpp_fast_cityscapes weights.pth street.jpg --out out
#
# CUDA: on x86-64, torch from the ordinary index is the CUDA build, which runs on CPUs as well. With
# NVIDIA's container toolkit, add `--gpus all` to `docker run`. An image some GB smaller, for CPUs
# alone: --build-arg TORCH_INDEX=ADDRESS, the address that pytorch.org/get-started shows under "CPU".
# The official mm stack: --build-arg STACK=openmmlab. Another Python: --build-arg PYTHON=3.11.

ARG PYTHON=3.13
FROM python:${PYTHON}-slim

# A compiler: for xtcocotools, which pose models need, and for Triton when it starts kernels.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev make \
    && rm -rf /var/lib/apt/lists/*

ARG STACK=onedl
ARG TORCH_INDEX=""
WORKDIR /opt/mmseg_tome
COPY . .
RUN PIP_EXTRA_INDEX_URL=${TORCH_INDEX} PIP_NO_CACHE_DIR=1 make install STACK=${STACK} VENV=/opt/venv

# Also for a user whom the image does not know.
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp USER=user
USER 1000
WORKDIR /work
ENTRYPOINT ["mmseg-tome"]
CMD ["--help"]
