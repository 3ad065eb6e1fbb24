# The commands and everything they need. PyTorch's wheels include the CUDA libraries, so the same image runs on the CPU
# and, with --gpus all and the NVIDIA Container Toolkit, on NVIDIA GPUs.
#
#   docker build -t exposing-the-deception .
#   docker run --rm exposing-the-deception training.py --help
#   mkdir -p dataset output
#   docker run --rm --gpus all --shm-size 8g -v /data/faces:/data/faces -v "$PWD/dataset:/app/dataset" \
#       -v "$PWD/output:/app/output" -v weights:/home/user/.cache \
#       exposing-the-deception training.py --name ff --data_root /data/faces
#   docker run --rm --shm-size 2g --entrypoint make exposing-the-deception test
#
# --shm-size: the processes that load images share batches in /dev/shm, where Docker's default of 64 MB is too small.
# mkdir: otherwise Docker creates the mounted folders, and only root can write to them.
# --build-arg UID=$(id -u): the user in the image, who writes to the mounted folders, gets your user number.
# -v weights:... keeps downloaded ImageNet weights between runs.

# BASE: a Debian or Ubuntu image whose python3 is 3.10 or newer and has venv.
ARG BASE=python:3.12-slim
FROM ${BASE}

RUN apt-get update \
    && apt-get install -y --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*

ARG UID=1000
RUN useradd --create-home --non-unique --uid ${UID} user \
    && install -d -o user /app /app/dataset /app/output /home/user/.cache
USER user
WORKDIR /app
ENV PIP_NO_CACHE_DIR=1

COPY --chown=user Makefile requirements.txt requirements-extra.txt ./
RUN make .venv/installed
COPY --chown=user . .

ENTRYPOINT ["/app/.venv/bin/python"]
CMD ["training.py", "--help"]
